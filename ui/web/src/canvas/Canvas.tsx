/** The node canvas: a view of one level of the document. */
import { Background, BackgroundVariant, ReactFlow, ReactFlowProvider, SelectionMode, useStore } from "@xyflow/react";
import "@xyflow/react/dist/base.css";
import { memo, useEffect, useRef, useState, type ReactNode } from "react";

import { listenForKeys, pointer } from "../keys";
import { useCanvas } from "../store";
import { AddMenu } from "./AddMenu";
import { Breadcrumbs } from "./Breadcrumbs";
import { Bubble } from "./Bubble";
import "./bars.css";
import "./canvas.css";
import "./cards.css";
import "./menus.css";
import "./wires.css";
import { Card } from "./Card";
import { allInView, centre, fit, fitFirst, inView, LEAST_ZOOM, READABLE, showFrame, takeToShow } from "./commands";
import { Controls } from "./Controls";
import { useElements, type CanvasEdge, type CanvasNode } from "./elements";
import { focusCanvas } from "./focus";
import { Frame } from "./Frame";
import * as on from "./gestures";
import { followLayout } from "./layouter";
import { MEASURES } from "./measure";
import { Minimap } from "./Minimap";
import { NodeMenu } from "./NodeMenu";
import { Overview, OverviewTip } from "./Overview";
import { followScene, scene, useScene } from "./scene";
import { useView } from "./view";
import { Wire } from "./Wire";
import { WireTip } from "./WireTip";

const NODE_TYPES = { card: Card, frame: Frame };
const EDGE_TYPES = { wire: Wire };
const SEVERAL = ["Shift", "Meta", "Control"];

export function Canvas(): ReactNode {
  useEffect(() => {
    const ends = [followScene(), followLayout(), listenForKeys()];
    return () => ends.forEach((end) => end());
  }, []);
  const dragging = useView((state) => state.dragging);
  const moving = useView((state) => state.moving);
  return (
    <ReactFlowProvider>
      <div className="cn-canvas" style={MEASURES}>
        <div
          className={`cn-flow${moving ? " cn-moving" : ""}`} tabIndex={-1} data-dragging={dragging?.type} data-dtype={dragging?.dtype}
          onDoubleClick={on.doubleClick} onFocus={on.focused} onDragOver={on.dragOver} onDragLeave={on.dragLeave} onDrop={on.dropped}
        >
          <Overview />
          <Flow />
          <Detail />
        </div>
        <Breadcrumbs />
        <Controls />
        <Minimap />
        <Bubble />
        <WireTip />
        <OverviewTip />
        <Notices />
        <AddMenu />
        <NodeMenu />
      </div>
    </ReactFlowProvider>
  );
}

/** React Flow itself. What it tells of is drawn at once and asked of the server; what it draws comes from the store. */
const Flow = memo(function Flow(): ReactNode {
  const { nodes, edges } = useElements();
  return (
    <ReactFlow<CanvasNode, CanvasEdge>
      nodes={nodes} edges={edges} nodeTypes={NODE_TYPES} edgeTypes={EDGE_TYPES} onInit={begun}
      onlyRenderVisibleElements zIndexMode="manual" minZoom={LEAST_ZOOM} maxZoom={2.5} zoomOnDoubleClick={false} nodeDragThreshold={3} connectionRadius={28}
      paneClickDistance={3} nodeClickDistance={3} connectOnClick={false} edgesFocusable={false} disableKeyboardA11y deleteKeyCode={null}
      selectionKeyCode="Shift" multiSelectionKeyCode={SEVERAL} panActivationKeyCode={null} selectionMode={SelectionMode.Partial} reconnectRadius={12}
      onNodesChange={on.nodesChange} onEdgesChange={on.edgesChange} onNodeDragStop={on.dragged} onSelectionDragStop={on.dragged}
      onSelectionStart={on.boxBegun} onSelectionEnd={on.boxed}
      onNodeClick={on.nodeClick} onNodeDoubleClick={on.nodeDoubleClick} onNodeContextMenu={on.nodeContextMenu} onNodeMouseEnter={on.nodeEnter} onNodeMouseLeave={on.nodeLeave} onEdgeMouseEnter={on.edgeEnter} onEdgeMouseLeave={on.edgeLeave} onEdgeContextMenu={on.edgeContextMenu} onPaneContextMenu={on.paneContextMenu} onPaneClick={on.paneClick}
      onConnect={on.connected} onConnectStart={on.connectStart} onConnectEnd={on.connectEnd} isValidConnection={on.isValid}
      onReconnect={on.reconnected} onReconnectStart={on.reconnectStart} onReconnectEnd={on.reconnectEnd}
      aria-label="Graph of this level"
    >
      <Background variant={BackgroundVariant.Dots} gap={24} size={1.4} />
      <Levels />
    </ReactFlow>
  );
});

function begun(flow: NonNullable<ReturnType<typeof useView.getState>["flow"]>): void {
  useView.setState({ flow });
  Object.assign(window, { __canvas: { useCanvas, useView, useScene, flow } });
}

// ---------------------------------------------------------------------------------------------------------------------
// What follows the view
// ---------------------------------------------------------------------------------------------------------------------

/** Zooms at which drawing changes; on the way back a little later, so that it does not flicker there. */
const FAR = 0.3;
const LIGHT = 0.4;
const MOST_CARDS = 320;

/** How much of the cards is drawn: all, without fields, or none of them on a 2-D canvas. */
function Detail(): ReactNode {
  const mode = useStore(({ transform, width, height }) => {
    const zoom = transform[2];
    const { overview, light } = useView.getState();
    const crowded = zoom < 0.9 && scene().all.length > MOST_CARDS && crowd(transform, width, height) > (overview ? MOST_CARDS * 0.85 : MOST_CARDS);
    const far = zoom < (overview ? FAR + 0.02 : FAR) || crowded;
    return `${far ? "far" : "near"} ${zoom < (light ? LIGHT + 0.03 : LIGHT) ? "light" : "full"}`;
  });
  useEffect(() => {
    const overview = mode.startsWith("far");
    const light = mode.endsWith("light");
    const now = useView.getState();
    if (now.overview !== overview || now.light !== light) useView.setState({ overview, light });
  }, [mode]);
  return null;
}

function crowd([x, y, zoom]: readonly [number, number, number], width: number, height: number): number {
  const [left, top, right, bottom] = [-x / zoom, -y / zoom, (width - x) / zoom, (height - y) / zoom];
  let count = 0;
  for (const placed of scene().all) {
    if (placed.left < right && placed.left + placed.width > left && placed.top < bottom && placed.top + placed.height > top) count++;
  }
  return count;
}

/** Move the view when another level is shown, a frame is opened, or something is to be looked at. */
function Levels(): ReactNode {
  const layout = useView((state) => state.layout);
  const flow = useView((state) => state.flow);
  const goal = useCanvas((state) => state.goal);
  const fromServer = useCanvas((state) => state.selection);
  const shown = useRef<string | null>(null);
  const whole = useRef(false);
  const sized = useStore((state) => state.width > 0);

  useEffect(() => {
    if (!layout || !flow || !sized) return;
    const open = takeToShow();
    if (shown.current !== layout.level) {
      const first = shown.current === null;
      shown.current = layout.level;
      fitFirst();
      // The focus went with the node that was entered: keep it on the canvas.
      if (!first) setTimeout(() => document.activeElement === document.body && focusCanvas(), 80);
    } else if (open) showFrame(open);
    // Who saw all of it goes on seeing all of it.
    else if (whole.current && !allInView()) fit(260, READABLE);
    whole.current = allInView();
  }, [layout, flow, sized]);
  const zoomed = useStore((state) => state.transform);
  useEffect(() => { whole.current = allInView(); }, [zoomed]);

  useEffect(() => {
    if (!goal || !flow || !scene().byPath.has(goal)) return;
    useCanvas.setState({ goal: null });
    // A level that just came is fitted first.
    requestAnimationFrame(() => centre(goal));
  }, [goal, flow, layout]);

  // What was just made is selected by the server: it may stand outside the view.
  const before = useRef(fromServer);
  useEffect(() => {
    const known = before.current;
    before.current = fromServer;
    const [path] = fromServer;
    if (fromServer.size !== 1 || known.has(path!)) return;
    const placed = scene().byPath.get(path!);
    if (placed && placed.node.kind !== "frame" && !inView(placed) && !pointer.pressed) centre(path!);
  }, [fromServer, layout]);
  return null;
}

/** What to do in an empty level; that a large one is being laid out. */
function Notices(): ReactNode {
  const ready = useCanvas((state) => state.revision >= 0);
  const empty = useCanvas((state) => state.nodes.size === 0 || [...state.nodes.values()].every((node) => node.kind === "input" || node.kind === "output"));
  const busy = useView((state) => state.busy);
  const far = useView((state) => state.overview);
  const [told, setTold] = useState(false);
  useEffect(() => {
    if (!far || told) return;
    const timer = setTimeout(() => setTold(true), 6000);
    return () => clearTimeout(timer);
  }, [far, told]);
  if (!ready) return <div className="cn-notice" role="status"><i className="cn-spinner" />Opening the model…</div>;
  if (busy) return <div className="cn-notice" role="status"><i className="cn-spinner" />Laying out…</div>;
  if (empty) {
    return (
      <div className="cn-empty" data-testid="empty">
        <b>Nothing here yet</b>
        <p>Drag something from the palette, or press <kbd>Tab</kbd> to add a node.</p>
      </div>
    );
  }
  if (far && !told) return <div className="cn-notice cn-hint">Double-click a node to come closer.</div>;
  return null;
}
