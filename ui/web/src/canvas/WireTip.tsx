/** What flows along the wire under the pointer, beside the pointer. */
import { useEffect, useRef, useState, type ReactNode } from "react";

import { useCanvas } from "../store";
import { useView } from "./view";
import { written } from "./Wire";

/** So that it does not flicker where the pointer only crosses a wire. */
const WAIT = 120;

export function WireTip(): ReactNode {
  const hovered = useView((state) => (state.dragging ? null : state.hoveredWire));
  const wire = useCanvas((state) => (hovered ? state.wires.get(hovered) : undefined));
  const source = useCanvas((state) => (wire ? state.nodes.get(wire.source.path) : undefined));
  const target = useCanvas((state) => (wire ? state.nodes.get(wire.target.path) : undefined));
  const [shown, setShown] = useState<string | null>(null);
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const timer = setTimeout(() => setShown(hovered), hovered ? WAIT : 0);
    return () => clearTimeout(timer);
  }, [hovered]);

  useEffect(() => {
    const follow = (event: { clientX: number; clientY: number }) => {
      const around = box.current?.parentElement?.getBoundingClientRect();
      if (!around || !box.current) return;
      // The wire may have gone from under the pointer, and then nobody says that it left.
      if (event instanceof PointerEvent && !(event.target as Element).closest?.("[data-wire]")) return useView.setState({ hoveredWire: null });
      const { offsetWidth, offsetHeight } = box.current;
      const x = Math.min(event.clientX - around.left + 14, around.width - offsetWidth - 8);
      const below = event.clientY - around.top + 18;
      const y = below + offsetHeight < around.height - 8 ? below : event.clientY - around.top - offsetHeight - 10;
      box.current.style.transform = `translate(${Math.max(8, x)}px, ${Math.max(8, y)}px)`;
    };
    if (last) follow(last);
    window.addEventListener("pointermove", follow);
    return () => window.removeEventListener("pointermove", follow);
  }, [shown]);

  // What is wrong with a wire stands on it.
  if (!wire || wire.bad || shown !== hovered || !source || !target) return null;
  const many = target.inputs.length > 1 ? `.${wire.target.port}` : "";
  const from = source.outputs.length > 1 ? `.${wire.source.port}` : "";
  return (
    <div className="cn-tip" ref={box} aria-hidden="true" data-testid="wire-tip">
      {wire.shape ? <b>{written(wire.shape)}</b> : <b>shape not known</b>}
      {wire.shape && <code>= [{wire.shape.actual.join(", ")}]</code>}
      {source.id}{from} → {target.id}{many}
    </div>
  );
}

/** Where the pointer went onto the wire. */
let last: { clientX: number; clientY: number } | null = null;
export const wireEntered = (id: string, event: { clientX: number; clientY: number }): void => {
  last = { clientX: event.clientX, clientY: event.clientY };
  useView.setState({ hoveredWire: id });
};
