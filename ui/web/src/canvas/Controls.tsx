/** The bar at the bottom left: zoom, fit, layout, shapes, and what colours the cards. */
import { useStore } from "@xyflow/react";
import type { ReactNode } from "react";

import { Icon } from "../panels/icons";
import { useCanvas } from "../store";
import { arrange, fit, zoomBy } from "./commands";
import { COLOURINGS } from "./metrics";
import { useView, type Colouring } from "./view";

export function Controls(): ReactNode {
  const percent = useStore((state) => Number((state.transform[2] * 100).toFixed(state.transform[2] < 0.01 ? 1 : 0)));
  const shapes = useCanvas((state) => state.showShapes);
  const colouring = useView((state) => state.colouring);
  return (
    <div className="cn-controls" role="toolbar" aria-label="View" data-testid="controls">
      <Tool label="Zoom out" keys="−" onClick={() => zoomBy(1 / 1.3)}><Icon name="minus" /></Tool>
      <span className="cn-zoom" aria-label={`Zoom ${percent} %`} role="img">{percent} %</span>
      <Tool label="Zoom in" keys="+" onClick={() => zoomBy(1.3)}><Icon name="plus" /></Tool>
      <hr />
      <Tool label="Fit the level into view" keys="F" onClick={() => fit()}><Icon name="fit" /></Tool>
      <Tool label="Lay the level out again" keys="L" onClick={() => void arrange()}><Icon name="arrange" /></Tool>
      <Tool label="Shapes on all wires" keys="S" pressed={shapes} onClick={() => useCanvas.setState({ showShapes: !shapes })}><Icon name="shapes" /></Tool>
      <hr />
      <label className="cn-colouring">
        <span>Colour</span>
        <select className="cv-select cv-quiet" aria-label="Colour cards by" data-testid="colouring" value={colouring} onChange={(event) => useView.setState({ colouring: event.target.value as Colouring })}>
          {COLOURINGS.map(({ value, label }) => <option key={value} value={value}>{label}</option>)}
        </select>
      </label>
    </div>
  );
}

function Tool({ label, keys, pressed, onClick, children }: { label: string; keys: string; pressed?: boolean; onClick(): void; children: ReactNode }): ReactNode {
  return <button type="button" className="cn-tool" aria-label={label} aria-pressed={pressed} title={`${label} (${keys})`} onClick={onClick}>{children}</button>;
}
