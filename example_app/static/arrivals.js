/* Shows photos that were on their way to the store when the page was made, as soon as they have arrived. */
"use strict";

(() => {
  // In milliseconds.
  const FIRST_PAUSE = 1000;
  const LONGEST_PAUSE = 30000;
  // Without news in between: about ten minutes.
  const MOST_QUESTIONS = 25;

  const url = document.currentScript.dataset.url;
  const places = new Map(Array.from(document.querySelectorAll("[data-pending]"), (place) => [place.dataset.pending, place]));

  async function watch() {
    let pause = FIRST_PAUSE;
    let asked = 0;
    while (places.size > 0 && asked < MOST_QUESTIONS) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (showArrived(await ask())) {
        pause = FIRST_PAUSE;
        asked = 0;
      } else {
        pause = Math.min(1.5 * pause, LONGEST_PAUSE);
        asked += 1;
      }
    }
    for (const place of places.values()) {
      const text = place.querySelector("[data-later]");
      text.textContent = text.dataset.later;
    }
  }

  /* Return URLs by id, null for what is on its way; what was deleted has none. */
  async function ask() {
    const query = new URLSearchParams(Array.from(places.keys(), (id) => ["id", id]));
    try {
      const answer = await fetch(`${url}?${query}`, { cache: "no-store" });
      if (answer.ok) return await answer.json();
    } catch {
      // The album cannot be reached: perhaps it can the next time.
    }
    return Object.fromEntries(Array.from(places.keys(), (id) => [id, null]));
  }

  /* Return whether there was anything new. */
  function showArrived(urls) {
    const settled = Array.from(places.keys()).filter((id) => urls[id] !== null);
    for (const id of settled) {
      if (urls[id]) show(places.get(id), urls[id]);
      places.delete(id);
    }
    return settled.length > 0;
  }

  function show(place, url) {
    const photo = place.querySelector("template").content;
    photo.querySelector("a").href = url;
    photo.querySelector("img").src = url;
    place.replaceChildren(photo);
  }

  watch();
})();
