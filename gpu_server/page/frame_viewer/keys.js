// What keys do to the film and the particles, wherever on the page they are pressed.

const TYPED_IN = "input:not([type=range]):not([type=checkbox]), textarea, [contenteditable=true]";
const MOVED_BY_ARROWS = "[role=slider], input[type=range], [role=listbox], [role=combobox], [role=tab]";
const PRESSED_BY_SPACE = "button, a, [role=button], [role=switch], [role=checkbox], [role=option]";

/** What a key press asks for, or "" where it belongs to the element that has the focus. */
export function wishOf(event) {
  const { key, shiftKey: shift, target } = event;
  if (event.altKey || event.metaKey || target.closest?.(TYPED_IN)) return "";
  if (document.querySelector(".q-dialog, .q-menu")) return ""; // they have keys of their own
  if (event.ctrlKey) return key.toLowerCase() === "z" && !event.repeat ? "undo" : "";
  if (target.closest?.(MOVED_BY_ARROWS) && /^(Arrow|Home|End|Page)/.test(key)) return "";
  if (target.closest?.(PRESSED_BY_SPACE) && (key === " " || key === "Enter")) return "";
  switch (key) {
    case "ArrowLeft": return shift ? "back10" : "back";
    case "ArrowRight": return shift ? "on10" : "on";
    case "Home": return "first";
    case "End": return "last";
    case " ": return "toggle";
    case "l": case "L": return "live";
    case "n": return "nextParticle";
    case "N": return "previousParticle";
    case "Delete": case "Backspace": return shift ? "rejectFrame" : "rejectParticle";
    case "a": case "A": return "auto";
    case "Escape": return "letGo";
    default: return "";
  }
}
