/* Sends forms with files of the store: shows how the upload gets on, and says at once what the server would refuse.

It looks after every form with an <input type="file" data-store-file>, whenever it comes into the page. Where it cannot,
and where no file is chosen, the form is sent as any other.

An answer that is a page takes the place of this one's body. Its scripts do not run; those of this page stay, and hear
"store-upload:rendered" on the document. The page of an error takes it only if it has the form. A download is saved.
A form with data-store-upload="off" is left alone.
*/
"use strict";

(() => {
  const LOADED = Symbol.for("store-upload");
  if (document[LOADED]) return;
  document[LOADED] = true;

  const FILE_INPUT = "input[type=file][data-store-file]";

  const PREVIEW_WIDTH = 160;
  const PREVIEW_HEIGHT = 120;
  const MOST_PREVIEWS = 12;
  // In bytes.
  const LARGEST_PREVIEW = 64 * 1024 * 1024;

  // In milliseconds.
  const BETWEEN_TEXTS = 1000;
  const LONGEST_DEPARTURE = 10000;
  // Share of the last second in the rate that tells the time left.
  const NEWS = 0.3;

  const messages = JSON.parse(document.currentScript.dataset.messages);

  // What was put into the page: by input, by input, by form.
  const complaints = new WeakMap();
  const previews = new WeakMap();
  const panels = new WeakMap();
  // What ends the upload of a form that is being sent.
  const running = new Map();

  document.addEventListener("change", (event) => {
    const form = event.target.form;
    for (const input of fileInputs(form)) check(input);
    if (!running.has(form)) panels.get(form)?.remove();
    if (event.target.matches?.(FILE_INPUT)) preview(event.target);
  });

  document.addEventListener("reset", (event) => {
    setTimeout(() => {
      for (const input of fileInputs(event.target)) {
        check(input);
        preview(input);
      }
    });
  });

  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    const { target: form, submitter } = event;
    if (running.has(form)) {
      event.preventDefault();
      return;
    }
    const url = targetOf(form, submitter);
    if (url === null) return;
    event.preventDefault();
    send(form, submitter, url);
  });

  // The visitor has come back to a page that was kept as it was left.
  window.addEventListener("pageshow", () => {
    for (const end of running.values()) end("");
  });

  /* The inputs that belong to a form, wherever in the page they are. */
  function fileInputs(form) {
    return form ? Array.from(document.querySelectorAll(FILE_INPUT)).filter((input) => input.form === form) : [];
  }

  /* Checks */

  function check(input) {
    const sentence = refusal(input);
    input.setCustomValidity(sentence);
    complain(input, sentence);
  }

  /* Return the sentence with which the server would refuse the chosen files, or "": without a sentence, no check. */
  function refusal(input) {
    const rules = input.dataset;
    const files = Array.from(input.files);
    const naming = (sentence, isRefused) => {
      const names = files.filter(isRefused).map((file) => file.name);
      if (!sentence || names.length === 0) return "";
      return input.multiple ? `${names.join(", ")}: ${sentence}` : sentence;
    };
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const isTooMany = files.length > 0 && files.length + countStaying(input) > Number(rules.maxFiles);
    const sentences = [
      naming(rules.maxSizeMessage, (file) => file.size > Number(rules.maxSize)),
      naming(rules.minSizeMessage, (file) => file.size < Number(rules.minSize)),
      isTooMany && input.multiple && rules.maxFilesMessage,
      total > Number(rules.maxTotalSize) && rules.maxTotalSizeMessage,
    ];
    return naming(rules.acceptMessage, (file) => !isAccepted(file, input.accept)) || sentences.filter(Boolean).join(" ");
  }

  /* A file whose type the browser does not know is for the server to judge. */
  function isAccepted(file, accept) {
    const name = file.name.toLowerCase();
    const rules = accept.toLowerCase().split(",").map((rule) => rule.trim()).filter(Boolean);
    return rules.length === 0 || rules.some((rule) => {
      if (rule.startsWith(".")) return name.endsWith(rule);
      if (file.type === "") return true;
      return rule.endsWith("/*") ? file.type.startsWith(rule.slice(0, -1)) : file.type === rule;
    });
  }

  /* Return the number of files that the field has already and keeps: they are listed between the input before and it. */
  function countStaying(input) {
    const inputs = fileInputs(input.form);
    const before = inputs[inputs.indexOf(input) - 1];
    const listed = Array.from(document.querySelectorAll(".store-file-existing, .store-file-kept")).filter(
      (file) => on(input.form, "compareDocumentPosition", file) & Node.DOCUMENT_POSITION_CONTAINED_BY && follows(input, file) && (!before || follows(file, before)),
    );
    return listed.filter((file) => !file.querySelector(".store-file-clear :checked")).length;
  }

  function follows(node, other) {
    return Boolean(other.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
  }

  function complain(input, sentence) {
    const old = complaints.get(input);
    if (old ? old.isConnected && old.textContent === sentence : !sentence) return;
    const describing = (input.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => id && id !== old?.id);
    old?.remove();
    complaints.delete(input);
    if (sentence) {
      const id = `store-file-error-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
      const alert = make("div", { id, class: "store-file-error invalid-feedback d-block", role: "alert" }, sentence);
      input.after(alert);
      complaints.set(input, alert);
      describing.push(id);
    }
    setOrRemove(input, "aria-describedby", describing.join(" "));
    setOrRemove(input, "aria-invalid", sentence && "true");
  }

  /* Previews: drawn, since a policy may allow no image that is not the server's */

  async function preview(input) {
    previews.get(input)?.remove();
    previews.delete(input);
    const images = Array.from(input.files).filter((file) => file.type.startsWith("image/") && file.size <= LARGEST_PREVIEW);
    if (images.length === 0) return;
    const place = make("div", { class: "store-file-preview d-flex flex-wrap gap-2 mt-2" });
    previews.set(input, place);
    (complaints.get(input) ?? input).after(place);
    for (const file of images.slice(0, MOST_PREVIEWS)) {
      const canvas = await draw(file);
      if (previews.get(input) !== place) return;
      if (canvas) place.append(canvas, " ");
    }
  }

  async function draw(file) {
    let image;
    try {
      image = await createImageBitmap(file);
    } catch {
      return null; // no image, or of a kind that the browser does not know
    }
    const scale = Math.min(1, PREVIEW_WIDTH / image.width, PREVIEW_HEIGHT / image.height);
    const canvas = make("canvas", { role: "img", "aria-label": fill(messages.preview, { name: file.name }) });
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    image.close();
    return canvas;
  }

  /* Sending */

  /* Return where to send a form, or null if the browser is to send it by itself. */
  function targetOf(form, submitter) {
    const setting = (name) => submitter?.getAttribute(`form${name}`) ?? on(form, "getAttribute", name) ?? "";
    if (on(form, "getAttribute", "data-store-upload") === "off") return null;
    if (!fileInputs(form).some((input) => input.files.length > 0 && !input.matches(":disabled"))) return null;
    if (setting("method").toLowerCase() !== "post") return null;
    if (setting("enctype").toLowerCase() !== "multipart/form-data") return null;
    if (!["", "_self"].includes(setting("target").toLowerCase())) return null;
    const url = new URL(setting("action") || document.URL, document.baseURI);
    return url.origin === location.origin ? url : null;
  }

  function send(form, submitter, url) {
    const request = new XMLHttpRequest();
    const panel = openPanel(form, () => request.abort());
    const end = (sentence) => {
      if (running.get(form) !== end) return;
      running.delete(form);
      on(form, "removeAttribute", "aria-busy");
      if (panel.close(sentence)) (submitter ?? fileInputs(form)[0])?.focus();
    };
    running.set(form, end);
    on(form, "setAttribute", "aria-busy", "true");

    request.open("POST", url);
    request.setRequestHeader("X-Store-Upload", "1");
    request.setRequestHeader("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    request.upload.addEventListener("progress", (event) => panel.show(event.loaded, event.total));
    request.upload.addEventListener("load", () => panel.wait());
    request.addEventListener("readystatechange", () => {
      if (request.readyState !== XMLHttpRequest.HEADERS_RECEIVED) return;
      // The browser makes the page: a policy of trusted types may forbid that to scripts.
      request.responseType = isDownload(request) ? "blob" : "document";
    });
    request.addEventListener("load", () => receive(request, form, end));
    request.addEventListener("error", () => end(messages.interrupted));
    request.addEventListener("abort", () => end(messages.cancelled));
    request.send(new FormData(form, submitter));
  }

  /* Answers */

  function receive(request, form, end) {
    // The page went on without the form. A field may be called like what a form has, so the form is not asked.
    if (!document.contains(form)) return end("");
    const place = request.getResponseHeader("X-Store-Location");
    if (place !== null) {
      const url = new URL(place, request.responseURL);
      if (!["http:", "https:"].includes(url.protocol)) return end(messages.interrupted);
      // Until the next page is there, the form is not sent again. One that is a download never comes.
      setTimeout(end, LONGEST_DEPARTURE, "");
      go(url);
      return;
    }
    if (request.status === 204 || request.status === 205) return end("");
    const page = pageOf(request);
    if (request.status >= 400 && !page?.querySelector(FILE_INPUT)) {
      return end(sentenceFor(request.status));
    }
    if (page) {
      end("");
      show(page.body, page.title, request.responseURL);
    } else if (isDownload(request)) {
      end("");
      download(request);
    } else {
      end(messages.hidden);
    }
  }

  function sentenceFor(status) {
    if (status === 413) return messages.tooLarge;
    // Only these may be over by themselves: too many requests, and a server that is in trouble.
    return status === 429 || status >= 500 ? messages.failed : messages.refused;
  }

  /* As browsers do: what is no page, or is not meant to be shown. */
  function isDownload(request) {
    const isPage = /^\s*text\/html\s*(;|$)/i.test(request.getResponseHeader("Content-Type") ?? "");
    const isInline = /^\s*(inline\s*(;|$)|$)/i.test(request.getResponseHeader("Content-Disposition") ?? "");
    return !isPage || !isInline;
  }

  /* Return the page that an answer is, with what its policy allows, or null if it is none to show in this one. */
  function pageOf(request) {
    if (request.responseType !== "document" || !request.response?.body) return null;
    const page = request.response;
    const written = [request.getResponseHeader("Content-Security-Policy") ?? ""];
    for (const meta of page.head.querySelectorAll("meta[http-equiv=content-security-policy i]")) written.push(meta.content);
    const policies = written.join(",").split(",").map(parsePolicy);
    if (policies.some((policy) => policy.has("sandbox") || isNone(scriptSources(policy, "elem")))) return null;
    if (policies.some(forbidsInline)) removeInline(page.body);
    return page;
  }

  function parsePolicy(text) {
    const policy = new Map();
    for (const directive of text.toLowerCase().split(";")) {
      const [name, ...sources] = directive.trim().split(/\s+/);
      if (!policy.has(name)) policy.set(name, sources);
    }
    return policy;
  }

  function scriptSources(policy, kind) {
    return policy.get(`script-src-${kind}`) ?? policy.get("script-src") ?? policy.get("default-src");
  }

  function isNone(sources) {
    return Boolean(sources?.every((source) => source === "'none'"));
  }

  /* Besides a nonce or a hash, 'unsafe-inline' means nothing. */
  function forbidsInline(policy) {
    return ["attr", "elem"].some((kind) => {
      const sources = scriptSources(policy, kind);
      return sources && (!sources.includes("'unsafe-inline'") || sources.some((one) => /^'(nonce-|sha|strict-dynamic)/.test(one)));
    });
  }

  /* This page may run what the policy of the answer forbids: handlers, URLs that are scripts, and pages in attributes. */
  function removeInline(root) {
    for (const element of [root, ...root.querySelectorAll("*")]) {
      if (element.localName === "template" && element.content) removeInline(element.content);
      for (const { name, value } of Array.from(element.attributes ?? [])) {
        if (name.startsWith("on") || name === "srcdoc" || isScriptUrl(name, value)) element.removeAttribute(name);
      }
    }
  }

  /* The last four are of animations in SVG, which set an attribute. */
  function isScriptUrl(name, value) {
    const isUrl = /^(.+:)?(href|src|action|formaction|data|from|to|by|values)$/.test(name);
    return isUrl && /javascript:/i.test(value.replace(/[\x00-\x20]/g, ""));
  }

  function download(request) {
    const link = make("a", { href: URL.createObjectURL(request.response), download: filename(request) });
    link.click();
    // The browser has begun to read by then.
    setTimeout(() => URL.revokeObjectURL(link.href), LONGEST_DEPARTURE);
  }

  /* Return the name that a download is given, or "": the browser makes one. */
  function filename(request) {
    const disposition = request.getResponseHeader("Content-Disposition") ?? "";
    const encoded = /;\s*filename\*=utf-8'[^']*'([^;\s]+)/i.exec(disposition);
    const [, quoted, bare] = /;\s*filename=(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))/i.exec(disposition) ?? [];
    try {
      if (encoded) return decodeURIComponent(encoded[1]);
    } catch {
      // no text
    }
    return quoted?.replace(/\\(.)/g, "$1") ?? bare ?? "";
  }

  function go(url) {
    if (url.href.includes("#") && withoutFragment(url.href) === withoutFragment(location.href)) {
      // Going there would only scroll.
      history.replaceState(null, "", url);
      location.reload();
    } else {
      location.assign(url);
    }
  }

  function withoutFragment(url) {
    return url.replace(/#.*/, "");
  }

  function show(body, title, url) {
    // In a page that runs no scripts the browser takes what is meant for such pages, which is not wanted in this one.
    for (const element of body.querySelectorAll("noscript, script:not([type='application/json'])")) element.remove();
    if (url !== withoutFragment(location.href)) history.replaceState(null, "", url);
    document.title = title;
    document.body.className = body.className;
    document.body.replaceChildren(...body.childNodes);
    window.scrollTo(0, 0);
    document.dispatchEvent(new CustomEvent("store-upload:rendered"));
    focusFirst();
  }

  function focusFirst() {
    const invalid = document.querySelector(":is(input, select, textarea):is(.is-invalid, [aria-invalid=true])");
    const place = invalid ?? document.querySelector("h1") ?? document.body;
    if (!invalid) place.tabIndex = -1;
    place.focus();
  }

  /* The panel that shows how the upload gets on. What changes every second is shown, not spoken. */

  function openPanel(form, cancel) {
    panels.get(form)?.remove();
    const panel = make("div", { class: "store-upload my-3", "aria-live": "polite" });
    const bar = make("progress", { class: "store-upload-progress w-100", "aria-label": messages.label, max: 1, value: 0 });
    const text = make("p", { class: "store-upload-text small mb-2", "aria-live": "off" });
    const share = make("span", { class: "visually-hidden" });
    const button = make("button", { class: "store-upload-cancel btn btn-outline-secondary btn-sm", type: "button" });
    button.textContent = messages.cancel;
    button.addEventListener("click", cancel);
    panels.set(form, panel);
    on(form, "append", panel);
    panel.append(bar, " ", share, text, button);

    let tenths = 0;
    let last = null;
    let rate = null;
    let hadFocus = false;

    function show(loaded, total) {
      bar.max = total;
      bar.value = loaded;
      if (Math.floor((10 * loaded) / total) > tenths) {
        tenths = Math.floor((10 * loaded) / total);
        share.textContent = new Intl.NumberFormat(messages.language, { style: "percent" }).format(tenths / 10);
      }
      const now = performance.now();
      if (last !== null && now - last.time < BETWEEN_TEXTS) return;
      if (last !== null) {
        const news = (1000 * (loaded - last.loaded)) / (now - last.time);
        rate = rate === null ? news : NEWS * news + (1 - NEWS) * rate;
      }
      last = { time: now, loaded };
      const time = rate ? duration((total - loaded) / rate) : null;
      text.textContent = fill(time ? messages.left : messages.sent, { sent: size(loaded), total: size(total), time });
    }

    /* What is sent cannot be cancelled. */
    function wait() {
      bar.removeAttribute("value");
      share.remove();
      text.setAttribute("aria-live", "polite");
      text.textContent = messages.waiting;
      hadFocus = panel.contains(document.activeElement);
      button.remove();
    }

    /* Return whether the focus was in the panel, and is nowhere now. */
    function close(sentence) {
      hadFocus ||= panel.contains(document.activeElement);
      if (sentence) panel.replaceChildren(make("p", { class: "store-upload-text" }, sentence));
      else panel.remove();
      return hadFocus && document.activeElement === document.body;
    }

    return { show, wait, close };
  }

  /* As the server says sizes. */
  function size(bytes) {
    const units = ["Bytes", "KiB", "MiB", "GiB", "TiB"];
    const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
    const digits = power > 0 ? 1 : 0;
    const format = new Intl.NumberFormat(messages.language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return `${format.format(bytes / 1024 ** power)} ${units[power]}`;
  }

  function duration(seconds) {
    let [number, unit] = [Math.ceil(seconds / 3600), "hour"];
    if (seconds <= 3600) [number, unit] = [Math.ceil(seconds / 60), "minute"];
    if (seconds <= 60) [number, unit] = [Math.max(5, 5 * Math.ceil(seconds / 5)), "second"];
    return new Intl.NumberFormat(messages.language, { style: "unit", unit, unitDisplay: "long" }).format(number);
  }

  /* Call a method of a form. By its name it may be a field that is called so. */
  function on(form, method, ...values) {
    return Element.prototype[method].call(form, ...values);
  }

  function fill(message, values) {
    return message.replace(/%\((\w+)\)s/g, (_, name) => values[name]);
  }

  function make(tag, attributes = {}, text = "") {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  }

  function setOrRemove(element, name, value) {
    if (value) element.setAttribute(name, value);
    else element.removeAttribute(name);
  }
})();
