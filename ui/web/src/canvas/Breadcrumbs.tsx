/** Where one is: the levels above, the layers that are shown, and whom an edit here reaches. */
import type { ReactNode } from "react";

import { Icon } from "../panels/icons";
import { useCanvas, type State } from "../store";
import { LayerPicker } from "./LayerPicker";

export function Breadcrumbs(): ReactNode {
  const crumbs = useCanvas((state) => state.crumbs);
  const layers = useCanvas((state) => state.layers);
  const look = useCanvas((state) => state.look);
  if (!crumbs.length) return null;
  const holder = layers ? crumbs.findIndex(({ path }) => path.startsWith(`${layers.stack}.`)) : -1;
  return (
    <div className="cn-crumbs">
      <nav aria-label="Levels" data-testid="crumbs">
        {crumbs.length > 1 && (
          <button type="button" className="cn-crumb-up" aria-label="Out to the level around this one" title="Out to the level around this one (Esc)" onClick={() => void look(crumbs.at(-2)!.path)}>
            <Icon name="up" size={14} />
          </button>
        )}
        <ol>
          {crumbs.map((crumb, index) => (
            <li key={crumb.path} className={index === crumbs.length - 1 ? "cn-last" : undefined}>
              {index > 0 && <Icon name="chevron" size={10} />}
              {index === holder && layers ? (
                <LayerPicker layers={layers} here={index === crumbs.length - 1} crumb={crumb} />
              ) : index === crumbs.length - 1 ? (
                <span aria-current="page" title={crumb.label}>{crumb.label}</span>
              ) : (
                <button type="button" title={crumb.label} onClick={() => void look(crumb.path)}>{crumb.label}</button>
              )}
            </li>
          ))}
        </ol>
      </nav>
      <Reach />
    </div>
  );
}

function Reach(): ReactNode {
  const linked = useCanvas((state) => state.linked);
  const layers = useCanvas((state) => state.layers);
  const said = reach(linked, layers);
  if (!said) return null;
  return <div className="cn-reaches" data-testid="reach" title={said}><Icon name="link" size={13} /><span>{said}</span></div>;
}

export function reach(linked: number, layers: State["layers"]): string {
  if (layers) {
    const { first, last, count } = layers;
    if (first === 0 && last === count - 1 && count > 1) return `Edits here reach all ${count} layers`;
    return first === last ? `Edits here reach only layer ${first} of ${count}` : `Edits here reach only layers ${first}–${last} of ${count}`;
  }
  if (!linked) return "";
  return `Edits here reach ${linked} other use${linked > 1 ? "s" : ""} of this block too`;
}
