/** The level from far away: one 2-D canvas in place of the cards, which could not be read and would be slow. */
import { useStoreApi } from "@xyflow/react";
import { useEffect, useMemo, useRef, useState, type ReactNode } from "react";

import { useCanvas } from "../store";
import { nodeAt, scene as currentScene, useScene, type Placed, type Scene } from "./scene";
import { inks, sketch, type Inks, type Sketch } from "./sketch";
import { useView } from "./view";

export function Overview(): ReactNode {
  const on = useView((state) => state.overview);
  return on ? <Drawing /> : null;
}

/** Below this height on the screen, a card has no room for a title. */
const TEXT_ROOM = 11;
const FONT = 10;
const CHARACTER = 6.1;

function Drawing(): ReactNode {
  const canvas = useRef<HTMLCanvasElement>(null);
  const flow = useStoreApi();
  const scene = useScene((state) => state.scene);
  const layout = useView((state) => state.layout);
  const colouring = useView((state) => state.colouring);
  const wires = useCanvas((state) => state.wires);
  const selection = useCanvas((state) => state.selection);
  const dark = useCanvas((state) => state.dark);
  const drawn = useMemo(() => sketch(scene, wires.values(), layout, colouring), [scene, wires, layout, colouring]);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const colours = inks(element);
    let frame = 0;
    const draw = () => {
      frame = 0;
      const { transform, width, height } = flow.getState();
      paint(element, { transform, width, height, scene, drawn, colours, selection });
    };
    const ask = () => { frame ||= requestAnimationFrame(draw); };
    draw();
    let before = flow.getState();
    const end = flow.subscribe((now) => {
      if (now.transform !== before.transform || now.width !== before.width || now.height !== before.height) ask();
      before = now;
    });
    return () => {
      cancelAnimationFrame(frame);
      end();
    };
  }, [flow, scene, drawn, selection, dark]);

  return <canvas className="cn-overview" ref={canvas} aria-hidden="true" data-testid="overview" />;
}

interface Picture {
  transform: [number, number, number];
  width: number;
  height: number;
  scene: Scene;
  drawn: Sketch;
  colours: Inks;
  selection: ReadonlySet<string>;
}

function paint(element: HTMLCanvasElement, { transform: [x, y, zoom], width, height, scene, drawn, colours, selection }: Picture): void {
  const density = Math.min(window.devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * density), Math.round(height * density)];
  if (element.width !== w || element.height !== h) [element.width, element.height] = [w, h];
  const pen = element.getContext("2d");
  if (!pen) return;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, w, h);
  pen.setTransform(density * zoom, 0, 0, density * zoom, density * x, density * y);
  const hair = 1 / zoom;
  pen.fillStyle = colours.frame;
  pen.fill(drawn.frames);
  pen.strokeStyle = colours.frameLine;
  pen.lineWidth = hair;
  pen.stroke(drawn.frames);
  pen.strokeStyle = colours.wire;
  pen.lineWidth = hair;
  pen.stroke(drawn.wires);
  for (const [colour, path] of drawn.cards) {
    pen.fillStyle = colours.cards.get(colour) ?? colours.cards.get("block")!;
    pen.fill(path);
    pen.strokeStyle = colours.edges.get(colour) ?? colours.edges.get("block")!;
    pen.stroke(path);
  }
  pen.strokeStyle = colours.warn;
  pen.lineWidth = 2 * hair;
  pen.stroke(drawn.warnings);
  pen.strokeStyle = colours.bad;
  pen.stroke(drawn.errors);
  pen.stroke(drawn.bad);
  pen.strokeStyle = colours.accent;
  pen.lineWidth = 2.5 * hair;
  for (const path of selection) {
    const placed = scene.byPath.get(path);
    if (placed) pen.strokeRect(placed.left - 2 * hair, placed.top - 2 * hair, placed.width + 4 * hair, placed.height + 4 * hair);
  }
  pen.setTransform(density, 0, 0, density, 0, 0);
  titles(pen, scene, colours, x, y, zoom, width, height);
}

/** Titles of the cards that are large enough, at a size that can be read whatever the zoom. */
function titles(pen: CanvasRenderingContext2D, scene: Scene, colours: Inks, x: number, y: number, zoom: number, width: number, height: number): void {
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  pen.fillStyle = colours.ink;
  pen.font = `600 ${FONT}px ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace`;
  const write = ({ node, left, top, width: wide, height: high }: Placed) => {
    const [sx, sy, sw, sh] = [left * zoom + x, top * zoom + y, wide * zoom, high * zoom];
    if (sx + sw < 0 || sy + sh < 0 || sx > width || sy > height) return;
    const frame = node.kind === "frame";
    const most = Math.floor((sw - 4) / CHARACTER);
    if (most < 3 || (!frame && sh < TEXT_ROOM)) return;
    const text = node.id.length <= most ? node.id : `${node.id.slice(0, most - 1)}…`;
    pen.fillStyle = frame ? colours.ink2 : colours.ink;
    pen.fillText(text, sx + sw / 2, frame ? sy + Math.min(9, sh / 2) : sy + sh / 2);
  };
  for (const placed of scene.all) write(placed);
}

/** The name of what is under the pointer: most cards are too small here to show theirs. */
export function OverviewTip(): ReactNode {
  const on = useView((state) => state.overview);
  return on ? <Tip /> : null;
}

function Tip(): ReactNode {
  const [under, setUnder] = useState<{ placed: Placed; x: number; y: number } | null>(null);
  useEffect(() => {
    const follow = (event: PointerEvent) => {
      const flow = useView.getState().flow;
      const pane = (event.target as Element).closest?.(".react-flow__pane");
      const placed = flow && pane && !event.buttons ? nodeAt(currentScene(), flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })) : null;
      const box = pane?.getBoundingClientRect();
      setUnder((before) => (placed && box ? { placed, x: event.clientX - box.left, y: event.clientY - box.top } : before && null));
    };
    window.addEventListener("pointermove", follow);
    return () => window.removeEventListener("pointermove", follow);
  }, []);
  if (!under) return null;
  const { node } = under.placed;
  return (
    <div className="cn-tip" style={{ transform: `translate(${under.x + 14}px, ${under.y + 16}px)` }} aria-hidden="true">
      <b>{node.id}</b>
      {node.title}{node.problem && `: ${node.problem}`}
    </div>
  );
}
