// Refresh the page in place, keep times up to date, and copy commands. Without this script, the
// page shows the same, as of the time when it was loaded.
"use strict";

(() => {
  const REFRESH_MS = 15_000;
  const MAX_REFRESH_MS = 60_000;
  const TIMEOUT_MS = 10_000;
  const FIELDS = "input, select, textarea";

  const main = document.getElementById("main");
  const pageAge = document.getElementById("page-age");
  const renderedAt = document.getElementById("rendered-at");
  const printedAt = document.getElementById("printed-at");
  const connection = document.getElementById("connection");
  const announcement = document.getElementById("announcement");

  // -- times

  // The endpoint's clock minus this computer's clock, in milliseconds.
  let clockOffset = 0;
  // When the endpoint last confirmed that the page is current, on the endpoint's clock.
  let confirmedAt = Date.parse(document.body.dataset.renderedAt);

  const serverTime = () => Date.now() + clockOffset;

  function readClock(response) {
    const date = Date.parse(response.headers.get("Date"));
    // The field has whole seconds, so it is half a second late on average.
    if (!Number.isNaN(date)) clockOffset = date + 500 - Date.now();
  }

  // "12:03:04Z", with the date unless it is today, as on the rest of the page.
  function formatTime(milliseconds) {
    const text = new Date(milliseconds).toISOString();
    const day = text.slice(0, 10);
    const isToday = day === new Date(serverTime()).toISOString().slice(0, 10);
    return `${isToday ? "" : `${day} `}${text.slice(11, 19)}Z`;
  }

  // The words of format_elapsed() in trail/text/layout.py.
  function formatElapsed(milliseconds) {
    const seconds = Math.max(0, Math.floor((serverTime() - milliseconds) / 1000));
    if (seconds < 90) return `${seconds} s`;
    if (seconds < 90 * 60) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 36 * 3600) return `${Math.floor(seconds / 3600)} h`;
    const days = Math.floor(seconds / 86_400);
    return days === 1 ? "1 day" : `${days} days`;
  }

  function setText(element, text) {
    // A text node that does not change keeps the reader's selection.
    if (element.textContent === text) return;
    if (element.childNodes.length === 1 && element.firstChild.nodeType === Node.TEXT_NODE) {
      element.firstChild.nodeValue = text;
    } else {
      element.textContent = text;
    }
  }

  function updateTimes() {
    for (const element of document.querySelectorAll("time[data-relative]")) {
      const moment = Date.parse(element.dateTime);
      if (Number.isNaN(moment)) continue;
      const suffix = element.dataset.relative === "ago" ? " ago" : "";
      setText(element, formatElapsed(moment) + suffix);
    }
    setText(pageAge, ` (${formatElapsed(confirmedAt)} ago)`);
  }

  function confirmPage() {
    confirmedAt = serverTime();
    const text = new Date(confirmedAt).toISOString();
    renderedAt.dateTime = text;
    setText(renderedAt, formatTime(confirmedAt));
    printedAt.dateTime = text;
    setText(printedAt, `${text.slice(0, 10)} ${text.slice(11, 19)}Z`);
  }

  // -- the new content takes the place of the old, and keeps what the reader did with it

  // What identifies an element among its siblings; a section is identified by its heading.
  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE
    ? node.id || node.dataset.key || node.getAttribute("aria-labelledby") || ""
    : "");

  function hasChangedFields(form) {
    return [...form.querySelectorAll(FIELDS)].some((field) => {
      if (field.localName === "select") {
        const initial = [...field.options].findIndex((option) => option.defaultSelected);
        return field.selectedIndex !== Math.max(0, initial);
      }
      return field.value !== field.defaultValue || field.checked !== field.defaultChecked;
    });
  }

  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.localName === "form" && hasChangedFields(old)) return;
    morphAttributes(old, fresh);
    morphChildren(old, fresh);
  }

  function morphAttributes(old, fresh) {
    const isKept = (name) => name === "open" && old.localName === "details";
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !isKept(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !isKept(name)) old.setAttribute(name, value);
    }
  }

  function morphChildren(old, fresh) {
    const matches = matchChildren([...old.childNodes], [...fresh.childNodes]);
    const kept = new Set(matches.values());
    // Remove first, so that what stays is rarely moved: a moved element loses focus and selection.
    for (const child of [...old.childNodes]) if (!kept.has(child)) child.remove();
    let next = old.firstChild;
    for (const freshChild of [...fresh.childNodes]) {
      const match = matches.get(freshChild);
      if (match) morph(match, freshChild);
      if (match && match === next) {
        next = next.nextSibling;
      } else {
        old.insertBefore(match || document.importNode(freshChild, true), next);
      }
    }
  }

  // Return the old child for each new one: the one with the same key, or else the next of its kind.
  function matchChildren(oldChildren, freshChildren) {
    const matches = new Map();
    const oldByKey = new Map(oldChildren.filter(keyOf).map((child) => [keyOf(child), child]));
    const unkeyed = oldChildren.filter((child) => !keyOf(child));
    for (const child of freshChildren) {
      const key = keyOf(child);
      if (key) {
        const match = oldByKey.get(key);
        if (match && match.nodeName === child.nodeName) {
          matches.set(child, match);
          oldByKey.delete(key);
        }
      } else {
        const position = unkeyed.findIndex((old) => old.nodeName === child.nodeName);
        if (position >= 0) {
          matches.set(child, unkeyed[position]);
          unkeyed.splice(0, position + 1);
        }
      }
    }
    return matches;
  }

  function show(page) {
    const script = page.getElementById("script");
    const ownScript = document.getElementById("script");
    if (script.getAttribute("src") !== ownScript.getAttribute("src")) {
      location.reload(); // the endpoint was upgraded, and this script may not fit its pages
      return;
    }
    revealButtons(page);
    const focused = document.activeElement;
    const wasOpen = new Map([...main.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
    morph(main, page.getElementById("main"));
    // What moved to another part of the page is a new element there.
    for (const details of main.querySelectorAll("details[id]")) {
      if (wasOpen.has(details.id)) details.open = wasOpen.get(details.id);
    }
    const statusLine = document.getElementById("status-line");
    const freshLine = page.getElementById("status-line");
    if (statusLine && freshLine) morph(statusLine, freshLine);
    else if (statusLine) statusLine.remove();
    else if (freshLine) main.before(document.importNode(freshLine, true));
    document.title = page.title;
    if (focused !== document.activeElement) {
      const same = focused.isConnected ? focused : document.getElementById(focused.id);
      if (same) same.focus({ preventScroll: true });
    }
  }

  // -- refreshing

  let entityTag = document.body.dataset.entityTag;
  let timer = 0;
  let isRefreshing = false;
  let isSignedOut = false;
  let failures = 0;
  let failingSince = 0;

  const isEditing = () => main.contains(document.activeElement)
    && document.activeElement.matches(FIELDS);

  function scheduleRefresh() {
    clearTimeout(timer);
    const delay = Math.min(MAX_REFRESH_MS, REFRESH_MS * 2 ** failures);
    // Spread the viewers, so that they do not all ask at once after an interruption.
    timer = setTimeout(refresh, delay * (0.9 + 0.2 * Math.random()));
  }

  async function refresh() {
    // A hidden page is refreshed when it is visible again, and an edited one when editing ends.
    if (isRefreshing || isSignedOut || document.hidden || isEditing()) return;
    clearTimeout(timer);
    isRefreshing = true;
    const problem = await load();
    isRefreshing = false;
    if (problem) {
      failures += 1;
      failingSince = failingSince || serverTime();
      const advice = isSignedOut ? " Reload the page to sign in." : "";
      setText(
        connection,
        `${problem} since ${formatTime(failingSince)}; this page is as of `
          + `${formatTime(confirmedAt)}.${advice}`,
      );
    } else {
      failures = 0;
      failingSince = 0;
      setText(connection, "");
    }
    updateTimes();
    if (!isSignedOut) scheduleRefresh();
  }

  // Load the page again. Return why that failed, or "".
  async function load() {
    const abortion = new AbortController();
    const timeout = setTimeout(() => abortion.abort(), TIMEOUT_MS);
    try {
      const response = await fetch(location.href, {
        headers: { "If-None-Match": entityTag },
        cache: "no-store",
        credentials: "same-origin",
        redirect: "manual",
        signal: abortion.signal,
      });
      readClock(response);
      // A proxy redirects to its own page for signing in.
      isSignedOut = [401, 403].includes(response.status) || response.type === "opaqueredirect";
      if (isSignedOut) return "You have been signed out";
      if (response.status !== 304) {
        if (!response.ok) return `The endpoint cannot show this page (${response.status})`;
        const text = await response.text();
        const page = new DOMParser().parseFromString(text, "text/html");
        if (!page.body.dataset.entityTag || !page.getElementById("script")) {
          isSignedOut = true; // the page of a proxy
          return "You have been signed out";
        }
        if (isEditing()) return ""; // since the request was sent; shown when editing ends
        show(page);
        entityTag = page.body.dataset.entityTag;
      }
      confirmPage();
      return "";
    } catch (error) {
      return "The endpoint does not answer";
    } finally {
      clearTimeout(timeout);
    }
  }

  // -- copying

  const revealButtons = (root) => {
    for (const button of root.querySelectorAll("button.copy")) button.hidden = false;
  };

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    let isCopied = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      isCopied = true;
    } catch (error) {
      // Without TLS, browsers have no navigator.clipboard, except on this computer.
      getSelection().selectAllChildren(code);
      isCopied = document.execCommand("copy");
    }
    button.dataset.label = button.dataset.label || button.textContent;
    setText(button, isCopied ? "Copied" : "Selected");
    setText(
      announcement,
      isCopied ? "The command is copied." : "The command is selected, but the browser cannot copy it.",
    );
    setTimeout(() => {
      setText(button, button.dataset.label || button.textContent);
      setText(announcement, "");
    }, 2_000);
  }

  // -- start

  revealButtons(document);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
  });
  if (!("final" in document.body.dataset)) {
    document.addEventListener("visibilitychange", refresh);
    document.addEventListener("focusout", (event) => {
      if (event.target.matches(FIELDS)) setTimeout(refreshIfDue);
    });
    window.addEventListener("pageshow", (event) => event.persisted && refresh());
    window.addEventListener("online", refresh);
    setInterval(() => document.hidden || updateTimes(), 1_000);
    // The browser may have kept this page for a while, and its clock may be wrong.
    refresh();
  }

  function refreshIfDue() {
    if (serverTime() - confirmedAt >= REFRESH_MS) refresh();
    else scheduleRefresh();
  }
})();
