/** The whole level in a corner, and which part of it is in view. Drawn on 2-D canvases: thousands of nodes cost nothing. */
import { useStoreApi } from "@xyflow/react";
import { useEffect, useMemo, useRef, type PointerEvent, type ReactNode } from "react";

import { useCanvas } from "../store";
import { allInView } from "./commands";
import { boundsOf, useScene, type Bounds } from "./scene";
import { inks, sketch } from "./sketch";
import { useView } from "./view";

const SIZE = { width: 168, height: 120 };
const EDGE = 6;
/** Levels with fewer nodes are taken in at a glance. */
const WORTH = 12;

interface Scale {
  zoom: number;
  x: number;
  y: number;
}

function scaled(bounds: Bounds): Scale {
  const [wide, high] = [bounds.right - bounds.left, bounds.bottom - bounds.top];
  const zoom = Math.min((SIZE.width - 2 * EDGE) / Math.max(wide, 1), (SIZE.height - 2 * EDGE) / Math.max(high, 1));
  return { zoom, x: SIZE.width / 2 - ((bounds.left + bounds.right) / 2) * zoom, y: SIZE.height / 2 - ((bounds.top + bounds.bottom) / 2) * zoom };
}

export function Minimap(): ReactNode {
  const scene = useScene((state) => state.scene);
  return scene.all.length >= WORTH ? <Map /> : null;
}

function Map(): ReactNode {
  const picture = useRef<HTMLCanvasElement>(null);
  const window_ = useRef<HTMLDivElement>(null);
  const flow = useStoreApi();
  const scene = useScene((state) => state.scene);
  const layout = useView((state) => state.layout);
  const colouring = useView((state) => state.colouring);
  const wires = useCanvas((state) => state.wires);
  const dark = useCanvas((state) => state.dark);
  const scale = useMemo(() => scaled(boundsOf(scene)!), [scene]);
  const drawn = useMemo(() => sketch(scene, scene.all.length > 1500 ? [] : wires.values(), layout, colouring), [scene, wires, layout, colouring]);

  useEffect(() => {
    const element = picture.current;
    const pen = element?.getContext("2d");
    if (!element || !pen) return;
    const density = Math.min(window.devicePixelRatio || 1, 2);
    [element.width, element.height] = [SIZE.width * density, SIZE.height * density];
    const colours = inks(element);
    pen.setTransform(density * scale.zoom, 0, 0, density * scale.zoom, density * scale.x, density * scale.y);
    pen.fillStyle = colours.frame;
    pen.fill(drawn.frames);
    pen.strokeStyle = colours.wire;
    pen.lineWidth = 0.6 / scale.zoom;
    pen.stroke(drawn.wires);
    for (const [colour, path] of drawn.cards) {
      pen.fillStyle = colours.edges.get(colour) ?? colours.edges.get("block")!;
      pen.fill(path);
    }
    pen.fillStyle = pen.strokeStyle = colours.bad;
    pen.fill(drawn.errors);
    pen.stroke(drawn.bad);
  }, [scale, drawn, dark]);

  useEffect(() => {
    const place = () => {
      const { transform: [x, y, zoom], width, height } = flow.getState();
      const style = window_.current?.style;
      if (!style) return;
      style.transform = `translate(${(-x / zoom) * scale.zoom + scale.x}px, ${(-y / zoom) * scale.zoom + scale.y}px)`;
      style.width = `${(width / zoom) * scale.zoom}px`;
      style.height = `${(height / zoom) * scale.zoom}px`;
      window_.current!.hidden = allInView();
    };
    place();
    return flow.subscribe(place);
  }, [flow, scale]);

  /** Press or draw to move the view there. */
  function go(event: PointerEvent<HTMLDivElement>): void {
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    else if (!(event.buttons & 1)) return;
    const box = event.currentTarget.getBoundingClientRect();
    const instance = useView.getState().flow;
    if (!instance) return;
    const [x, y] = [(event.clientX - box.left - scale.x) / scale.zoom, (event.clientY - box.top - scale.y) / scale.zoom];
    void instance.setCenter(x, y, { zoom: instance.getZoom() });
  }

  return (
    <div className="cn-minimap" onPointerDown={go} onPointerMove={go} data-testid="minimap" aria-hidden="true">
      <canvas ref={picture} style={SIZE} />
      <div className="cn-minimap-view" ref={window_} />
    </div>
  );
}
