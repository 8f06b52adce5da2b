/** A stack's layers that differ: a strip that shows where each kind stands, and a row for each to go into. */
import type { KeyboardEvent, MouseEvent, ReactNode } from "react";

import type { NodeView, Variant } from "../protocol";
import { useCanvas } from "../store";
import { shownVariants } from "./measure";

/** Layers that are alike have one tint, wherever they stand. */
function tints(variants: Variant[]): number[] {
  const kinds = [...new Set(variants.map(({ block, label }) => `${block} ${label}`))];
  return variants.map(({ block, label }) => kinds.indexOf(`${block} ${label}`) % 5);
}

const said = ({ layers, label, count }: Variant) => `Layers ${layers}${label ? `, ${label}` : ""}: ${count} of them. Double-click to go into them.`;

function go(event: KeyboardEvent | MouseEvent, variant: Variant): void {
  event.preventDefault();
  event.stopPropagation();
  void useCanvas.getState().look(variant.path);
}

export function Variants({ node }: { node: NodeView }): ReactNode {
  const all = node.variants ?? [];
  const tint = tints(all);
  const shown = shownVariants(node);
  const rest = all.length - shown.length;
  return (
    <div className="cn-variants">
      <div className="cn-strip" aria-hidden="true">
        {all.map((variant, index) => <i key={variant.layers} data-tint={tint[index]} style={{ flexGrow: variant.count }} title={said(variant)} onDoubleClick={(event) => go(event, variant)} />)}
      </div>
      {shown.map((variant) => <Row key={variant.layers} variant={variant} tint={tint[all.indexOf(variant)]!} />)}
      {rest > 0 && <div className="cn-variant cn-variant-rest">and {rest} more</div>}
    </div>
  );
}

function Row({ variant, tint }: { variant: Variant; tint: number }): ReactNode {
  return (
    <button
      type="button" className="cn-variant nopan" title={said(variant)} aria-label={said(variant)} data-variant={variant.path}
      onDoubleClick={(event) => go(event, variant)} onKeyDown={(event) => event.key === "Enter" && go(event, variant)}
    >
      <i data-tint={tint} />
      <b>{variant.layers.replace("-", "–")}</b>
      <span>{variant.label || "as the model has it"}</span>
    </button>
  );
}
