/** What can be done with a card, on a right click: the same as by key, for those who do not know the keys. */
import { useEffect, useLayoutEffect, useRef, type KeyboardEvent, type ReactNode } from "react";

import { keys } from "../panels/Button";
import type { NodeView } from "../protocol";
import { useCanvas } from "../store";
import { copy, cut, duplicate } from "./clipboard";
import { collapse, enter, expand, openConnect, remove } from "./commands";
import { focusCanvas } from "./focus";
import { useView } from "./view";

interface Choice {
  label: string;
  key?: string;
  act(): unknown;
}

function choices(node: NodeView, many: boolean): (Choice | null)[] {
  const { path } = node;
  const own: (Choice | null)[] = [];
  if (!many && node.enter != null) own.push({ label: node.kind === "stack" ? "Go into its layers" : "Go into it", key: "Enter", act: () => enter(node) });
  if (!many && node.kind === "use") own.push({ label: "Open in place", act: () => expand(path) });
  if (!many && node.kind === "frame") own.push({ label: "Close: show as one card", act: () => collapse(path) });
  if (!many && node.kind !== "frame" && node.outputs.length) own.push({ label: "Connect its output…", key: "C", act: () => openConnect(path, "source") });
  if (!many && node.kind !== "frame" && node.inputs.length) own.push({ label: "Feed its input…", key: "Shift+C", act: () => openConnect(path, "target") });
  if (own.length) own.push(null);
  return [
    ...own,
    { label: "Duplicate", key: "Ctrl+D", act: duplicate }, { label: "Copy", key: "Ctrl+C", act: copy }, { label: "Cut", key: "Ctrl+X", act: cut }, null,
    { label: "Delete, join the wires", key: "Del", act: () => remove(true) }, { label: "Delete, leave the gap", key: "Shift+Del", act: () => remove(false) },
  ];
}

export function NodeMenu(): ReactNode {
  const menu = useView((state) => state.nodeMenu);
  const node = useCanvas((state) => (menu ? state.nodes.get(menu.path) : undefined));
  const many = useCanvas((state) => state.selection.size > 1);
  const box = useRef<HTMLDivElement>(null);

  useLayoutEffect(() => {
    const element = box.current;
    const around = element?.parentElement?.getBoundingClientRect();
    if (!menu || !element || !around) return;
    element.style.left = `${Math.max(8, Math.min(menu.screen.x - around.left, around.width - element.offsetWidth - 8))}px`;
    element.style.top = `${Math.max(8, Math.min(menu.screen.y - around.top, around.height - element.offsetHeight - 8))}px`;
    element.querySelector("button")?.focus({ preventScroll: true });
  }, [menu]);
  useEffect(() => {
    if (!menu) return;
    const outside = (event: PointerEvent) => !box.current?.contains(event.target as globalThis.Node) && useView.setState({ nodeMenu: null });
    window.addEventListener("pointerdown", outside, true);
    return () => window.removeEventListener("pointerdown", outside, true);
  }, [menu]);
  if (!menu || !node) return null;

  function close(): void {
    useView.setState({ nodeMenu: null });
    focusCanvas();
  }
  function key(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") close();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const stops = [...(box.current?.querySelectorAll("button") ?? [])];
      const at = stops.indexOf(document.activeElement as HTMLButtonElement) + (event.key === "ArrowDown" ? 1 : -1);
      stops[(at + stops.length) % stops.length]?.focus();
    } else return;
    event.preventDefault();
  }

  return (
    <div className="cn-menu cn-node-menu nokey" ref={box} role="menu" aria-label={many ? "What is selected" : node.id} data-testid="node-menu" onKeyDown={key} onContextMenu={(event) => event.preventDefault()}>
      {choices(node, many).map((choice, index) =>
        choice ? (
          <button key={choice.label} type="button" role="menuitem" tabIndex={-1} onClick={() => { close(); choice.act(); }}>
            {choice.label}
            {choice.key && <kbd>{keys(choice.key)}</kbd>}
          </button>
        ) : <hr key={index} />,
      )}
    </div>
  );
}
