/** Making and changing elements. Text only ever becomes text: nothing here makes markup of it. */

/** @param {string} id @returns {any} the element of the page with that ID */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element.
 * @param {string} tag
 * @param {object} [attributes] attributes by name; `onclick` and the like are listeners, `dataset` an object
 * @param {...any} children elements and texts; what is none is left out
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

const DRAWINGS = {
  attach: "m21 11.5-8.6 8.6a5.5 5.5 0 0 1-7.8-7.8l8.6-8.6a3.7 3.7 0 0 1 5.2 5.2l-8.6 8.6a1.8 1.8 0 0 1-2.6-2.6l7.9-7.9",
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  create: "M12 5v14M5 12h14",
  down: "M12 5v14M6 13l6 6 6-6",
  file: "M14 3H6a1 1 0 0 0-1 1v16a1 1 0 0 0 1 1h12a1 1 0 0 0 1-1V8zM14 3v5h5",
  find: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM20 20l-4.8-4.8",
  help: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.5 9.5a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.1.9-1.1 1.7M12 16.8v.1",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5.5M12 7.6v.1",
  invite: "M9.5 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3 20c0-3.3 2.9-5.5 6.5-5.5S16 16.700 16 20M19 8v6M16 11h6",
  people:
    "M9 11a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zM2.500 20c0-3.300 2.900-5.500 6.500-5.500s6.500 2.200 6.500 5.500M16 4.300a3.500 3.500 0 0 1 0 6.400M18 14.900c2.100.8 3.500 2.600 3.500 5.100",
  send: "M4 12l16-8-5.500 16-3-6.500zM11.500 13.500L20 4",
  trash: "M4 7h16M9 7V4h6v3M6.500 7l1 13h9l1-13M10 11v5.500M14 11v5.500",
};

/** A small drawing. @param {keyof DRAWINGS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", DRAWINGS[name]);
  svg.append(path);
  return svg;
}

/**
 * Make the children of an element those of a list, and leave those in place that are the same.
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => [string, string]} keyOf which child it is, and what it looks like
 * @param {(item: T) => HTMLElement} make
 */
export function reconcile(parent, items, keyOf, make) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const [key, look] = keyOf(item);
    let child = known.get(key);
    known.delete(key);
    if (!child || child.dataset.look !== look) {
      const made = make(item);
      made.dataset.key = key;
      made.dataset.look = look;
      if (child) {
        const hadFocus = child.contains(document.activeElement);
        if (place === child) place = child.nextElementSibling;
        child.replaceWith(made);
        if (hadFocus) focusLike(made, child);
      }
      child = made;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

/** Give the focus to what stands where it was. */
function focusLike(made, before) {
  const target = made.matches("[tabindex]") ? made : made.querySelector("button, a, [tabindex]");
  (before.hasAttribute("tabindex") ? made : (target ?? made)).focus?.({ preventScroll: true });
}

/** Call a function once for everything that happens at the same time. @param {() => void} work */
export function together(work) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    setTimeout(() => {
      isDue = false;
      work();
    });
  };
}

/** Tell the user something in passing. @param {string} text */
export function notice(text) {
  const shown = h("p", { class: "notice" }, text);
  byId("notices").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Have what happened read out. @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}
