/** What is wrong with the card under the pointer, or with the keyboard on it, in words beside it. */
import { useStore } from "@xyflow/react";
import { useEffect, useLayoutEffect, useRef, useState, type ReactNode } from "react";

import { Icon } from "../panels/icons";
import { flagOf } from "./Card";
import { useScene, type Placed } from "./scene";
import { useView } from "./view";

/** So that it does not flicker while the pointer only passes by. */
const WAIT = 160;

export function Bubble(): ReactNode {
  const hovered = useView((state) => (state.overview || state.dragging ? null : state.hovered));
  const placed = useScene(({ scene }) => (hovered ? scene.byPath.get(hovered) : undefined));
  const [shown, setShown] = useState<string | null>(null);
  useEffect(() => {
    const timer = setTimeout(() => setShown(hovered), hovered ? WAIT : 0);
    if (!hovered) return () => clearTimeout(timer);
    // The card may go from under the pointer, and then nobody says that it left.
    const left = (event: PointerEvent) => !(event.target as Element).closest?.(".react-flow__node") && useView.setState({ hovered: null });
    window.addEventListener("pointermove", left);
    return () => {
      clearTimeout(timer);
      window.removeEventListener("pointermove", left);
    };
  }, [hovered]);
  const told = placed && (placed.node.problem || (placed.node.dead && "No output depends on it: it is neither run nor emitted."));
  return told && shown === hovered ? <Words placed={placed} text={told} /> : null;
}

function Words({ placed, text }: { placed: Placed; text: string }): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const [x, y, zoom] = useStore((state) => state.transform);
  const width = useStore((state) => state.width);
  const height = useStore((state) => state.height);

  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const [left, top] = [placed.left * zoom + x, placed.top * zoom + y];
    const [right, bottom] = [left + placed.width * zoom, top + placed.height * zoom];
    const { offsetWidth, offsetHeight } = element;
    const beside = right + 18 + offsetWidth < width ? right + 18 : left - 12 - offsetWidth;
    const fits = beside > 8;
    element.style.left = `${fits ? beside : Math.max(8, Math.min(left, width - offsetWidth - 8))}px`;
    element.style.top = `${fits ? Math.max(8, Math.min(top - 8, height - offsetHeight - 8)) : bottom + 12}px`;
  }, [placed, x, y, zoom, width, height, text]);

  return (
    <div className={`cn-bubble cn-bubble-${placed.node.severity ?? "note"}`} ref={box} aria-hidden="true" data-testid="bubble">
      <Icon name={flagOf(placed.node)} size={14} />
      <span>{text}</span>
    </div>
  );
}
