/** What all dialogs have in common: opening, closing, and saying what went wrong. */

import { byId } from "./dom.js";

/** Let the buttons marked `data-closes` close their dialog, and those marked `data-opens` open one. */
export function prepareDialogs() {
  document.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    if (target.closest("[data-closes]")) target.closest("dialog").close();
    const opens = target.closest("[data-opens]");
    if (opens) openDialog(opens.dataset.opens);
  });
}

/** @param {string} id @returns {HTMLDialogElement} */
export function openDialog(id) {
  const dialog = byId(id);
  showFault(dialog, null);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

/** @param {HTMLDialogElement} dialog @param {?string} sentence */
export function showFault(dialog, sentence) {
  const fault = dialog.querySelector(".fault.box");
  if (!fault) return;
  fault.hidden = !sentence;
  fault.textContent = sentence ?? "";
}

/**
 * Do what a dialog is for: once at a time, and close it when it is done.
 * @param {HTMLDialogElement} dialog
 * @param {() => Promise<any>} work may give what is to be done when the dialog is closed, and the focus
 *   is back where it was
 * @param {{stays?: boolean}} [options]
 */
export async function doIn(dialog, work, { stays = false } = {}) {
  if (dialog.ariaBusy === "true") return;
  dialog.ariaBusy = "true";
  showFault(dialog, null);
  try {
    const then = await work();
    if (!stays) dialog.close();
    if (then) then();
  } catch (error) {
    showFault(dialog, error.message);
  } finally {
    dialog.ariaBusy = null;
  }
}

/**
 * Ask whether something is meant.
 * @param {{title: string, text: string, yes: string, work: () => Promise<any>}} question
 */
export function confirm({ title, text, yes, work }) {
  const dialog = openDialog("confirm-dialog");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  const button = byId("confirm-yes");
  button.textContent = yes;
  button.onclick = () => doIn(dialog, work);
}
