/** Where the keyboard is: give it to the canvas, or to one of its nodes. */

/** The canvas takes keys, without being a stop of the tab key. */
export function focusCanvas(): void {
  document.querySelector<HTMLElement>(".cn-flow")?.focus({ preventScroll: true });
}

/** To a node, once it is drawn: a node that comes into view mounts a little later. */
export function focusNode(path: string, tries = 20): void {
  const element = document.querySelector<HTMLElement>(`.cn-flow [data-path="${CSS.escape(path)}"]`);
  if (element) element.focus({ preventScroll: true });
  else if (tries > 0) requestAnimationFrame(() => focusNode(path, tries - 1));
}
