/** A block that is open in place: a container around its nodes, with a header to move and close it by. */
import type { NodeProps } from "@xyflow/react";
import { memo, type CSSProperties, type ReactNode } from "react";

import { Icon } from "../panels/icons";
import { flagOf, HeadButton, Linked } from "./Card";
import { collapse, enter } from "./commands";
import type { CanvasNode } from "./elements";
import { besideId } from "./measure";
import { percent } from "./metrics";
import { useView } from "./view";

export const Frame = memo(FrameOf, (a, b) => a.data === b.data && a.selected === b.selected);

function FrameOf({ data, selected }: NodeProps<CanvasNode>): ReactNode {
  const { node, heat } = data;
  const target = useView((state) => state.dropFrame === node.path);
  const title = besideId(node);
  const names = ["cn-frame", selected ? "cn-chosen" : "", node.severity ? `cn-is-${node.severity}` : "", node.dead ? "cn-dead" : "", target ? "cn-drop" : ""];
  return (
    <div className={names.filter(Boolean).join(" ")} style={{ "--g": `var(--g-${node.group})` } as CSSProperties}>
      <div className="cn-frame-head">
        <b title={node.id}>{node.id}</b>
        {title && <span className="cn-card-title">{title}</span>}
        {node.detail && <span className="cn-frame-detail">{node.detail}</span>}
        <span className="cn-grow" />
        {heat && <span className="cn-card-badge">{percent(heat.share)}</span>}
        {node.severity && (
          <span className={`cn-frame-flag cn-flag-${node.severity}`} title={node.problem}>
            <Icon name={flagOf(node)} size={14} />
          </span>
        )}
        {(node.linked ?? 0) > 0 && <Linked count={node.linked!} />}
        <HeadButton label={`Close ${node.id}: show it as one card`} onClick={() => collapse(node.path)}><Icon name="collapse" size={13} /></HeadButton>
        {node.enter != null && <HeadButton label={`Go into ${node.id}`} onClick={() => enter(node)}><Icon name="enter" size={13} /></HeadButton>}
      </div>
    </div>
  );
}
