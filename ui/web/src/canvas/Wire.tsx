/** A wire: its line, its shape when asked for, and what is wrong with it. */
import { BaseEdge, EdgeLabelRenderer, useStore, type EdgeProps } from "@xyflow/react";
import { memo, type ReactNode } from "react";

import { Icon } from "../panels/icons";
import type { WireView } from "../protocol";
import { useCanvas } from "../store";
import type { CanvasEdge } from "./elements";
import { labelSpot, pathOf } from "./route";
import { useView } from "./view";

export const Wire = memo(WireOf, (a, b) => a.data === b.data && a.selected === b.selected);

function WireOf({ id, data, selected }: EdgeProps<CanvasEdge>): ReactNode {
  const { wire, runs, lit, int, label } = data!;
  const drop = useView((state) => state.dropWire === id);
  const light = useView((state) => state.light);
  const path = pathOf(runs);
  const names = ["cn-wire", int ? "cn-wire-int" : "", lit ? "cn-wire-lit" : "", selected ? "cn-wire-chosen" : "", wire.bad ? "cn-wire-bad" : "", drop ? "cn-wire-drop" : ""];
  return (
    <>
      <g className={names.filter(Boolean).join(" ")}>
        <BaseEdge path={path} interactionWidth={18} />
        {wire.shape && label && !wire.bad && !light && <ShapeLabel wire={wire} spot={label} shown={selected === true} />}
      </g>
      {wire.bad && <BadLabel wire={wire} spot={labelSpot(runs)} full={selected === true} />}
    </>
  );
}

/** Widths of a character of the label's font. */
const CHARACTER = 6.1;

export const written = (shape: NonNullable<WireView["shape"]>): string => `[${shape.symbolic.join(", ")}]`;

function ShapeLabel({ wire, spot, shown }: { wire: WireView; spot: { x: number; y: number }; shown: boolean }): ReactNode {
  const always = useCanvas((state) => state.showShapes);
  const text = written(wire.shape!);
  const width = text.length * CHARACTER + 12;
  if (!always && !shown) return null;
  return (
    <g className="cn-shape" transform={`translate(${spot.x} ${spot.y})`} aria-hidden="true">
      <rect x={-width / 2} y={-7.5} width={width} height={15} rx={4} />
      <text textAnchor="middle" dominantBaseline="central">{text}</text>
    </g>
  );
}

function BadLabel({ wire, spot, full }: { wire: WireView; spot: { x: number; y: number }; full: boolean }): ReactNode {
  // It keeps its size on the screen, as far as that leaves room for the graph.
  const scale = useStore((state) => Math.min(Math.max(1 / state.transform[2], 0.8), 2));
  return (
    <EdgeLabelRenderer>
      <div
        className={`cn-bad-label nodrag nopan${full ? " cn-bad-full" : ""}`} style={{ transform: `translate(-50%, -50%) translate(${spot.x}px, ${spot.y}px) scale(${scale})` }}
        onClick={() => useCanvas.getState().select([], [wire.id])} data-testid="bad-wire"
      >
        <Icon name="error" size={14} />
        <p>
          <b>{wire.problem || "The shapes at its ends disagree"}</b>
          {wire.shape && <code>{written(wire.shape)} = [{wire.shape.actual.join(", ")}]</code>}
          {wire.hint && <span>{wire.hint}</span>}
        </p>
      </div>
    </EdgeLabelRenderer>
  );
}
