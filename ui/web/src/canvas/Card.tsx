/** A node as a card: what it is, what matters of it, its fields and ports. */
import { Handle, Position, type NodeProps } from "@xyflow/react";
import { memo, type CSSProperties, type MouseEvent, type ReactNode } from "react";

import { Field } from "../panels/Field";
import { Icon } from "../panels/icons";
import type { NodeView, PortView } from "../protocol";
import { enter, expand, openPort } from "./commands";
import type { CanvasNode } from "./elements";
import { besideId, fieldsOf, hasBody, portAt } from "./measure";
import { percent } from "./metrics";
import { Variants } from "./Variants";
import { useView } from "./view";

export const Card = memo(CardOf, (a, b) => a.data === b.data && a.selected === b.selected);

function CardOf({ data, selected }: NodeProps<CanvasNode>): ReactNode {
  const { node, heat } = data;
  const light = useView((state) => state.light);
  const body = hasBody(node);
  const style = { "--g": `var(--g-${node.group})`, ...(heat ? { "--heat": `${Math.round(heat.tint * 100)}%` } : {}) } as CSSProperties;
  const names = ["cn-card", `cn-card-${node.kind}`, body ? "" : "cn-plain-card", heat ? "cn-heated" : "", node.severity ? `cn-is-${node.severity}` : "", node.dead ? "cn-dead" : "", selected ? "cn-chosen" : ""];
  return (
    <div className={names.filter(Boolean).join(" ")} style={style}>
      <Ports node={node} ports={node.inputs} type="target" />
      <Head node={node} />
      {node.detail && <div className="cn-card-detail" title={node.detail}>{node.detail}</div>}
      {fieldsOf(node).map((field) => (
        <div className="cn-card-field" key={field.id}>
          {light ? <span className="cn-card-flat"><span>{field.label}</span><b>{String(field.value ?? "")}</b></span> : <Field field={field} path={node.path} compact />}
        </div>
      ))}
      {(node.variants ?? []).length > 0 && <Variants node={node} />}
      <Ports node={node} ports={node.outputs} type="source" />
      {heat && heat.share > 0 && <span className="cn-share" title="Share of the whole model">{percent(heat.share)}</span>}
      {node.severity && <span className={`cn-flag cn-flag-${node.severity}`}><Icon name={flagOf(node)} size={14} /></span>}
    </div>
  );
}

function Head({ node }: { node: NodeView }): ReactNode {
  const title = besideId(node);
  return (
    <div className="cn-card-head" title={node.dead ? `${node.id}: no output depends on it, so it is neither run nor emitted` : undefined}>
      <b title={node.id}>{node.id}</b>
      {title && <span className="cn-card-title" title={node.title}>{title}</span>}
      {(node.linked ?? 0) > 0 && <Linked count={node.linked!} />}
      {node.repeat != null && <span className="cn-repeat" title={`${node.repeat} layers`}>×{node.repeat}</span>}
      {node.kind === "use" && (
        <HeadButton label={`Open ${node.id} in place`} onClick={() => expand(node.path)}><Icon name="expand" size={13} /></HeadButton>
      )}
      {node.enter != null && <HeadButton label={`Go into ${node.id}`} onClick={() => enter(node)}><Icon name="enter" size={13} /></HeadButton>}
    </div>
  );
}

export function Linked({ count }: { count: number }): ReactNode {
  const said = `Linked: this block is used in ${count} other place${count > 1 ? "s" : ""}. A change inside reaches ${count > 1 ? "them" : "it"} too.`;
  return <span className="cn-linked" title={said}><Icon name="link" size={12} />{count + 1}</span>;
}

export function HeadButton({ label, onClick, children }: { label: string; onClick(): void; children: ReactNode }): ReactNode {
  const act = (event: MouseEvent) => {
    event.stopPropagation();
    onClick();
  };
  return (
    <button type="button" className="cn-head-button nodrag nopan" aria-label={label} title={label} onClick={act} onDoubleClick={(event) => event.stopPropagation()}>
      {children}
    </button>
  );
}

export const flagOf = ({ severity }: NodeView) => (severity === "error" ? "error" : severity === "warning" ? "warning" : "note");

const Ports = memo(function Ports({ node, ports, type }: { node: NodeView; ports: PortView[]; type: "source" | "target" }): ReactNode {
  const way = type === "target" ? "in" : "out";
  return (
    <>
      {ports.map((port, index) => (
        <Handle
          key={port.name} id={port.name} type={type} position={type === "target" ? Position.Top : Position.Bottom}
          className={`cn-port cn-port-${way} cn-port-${port.dtype || "any"}${port.wired === false ? " cn-port-free" : ""}`}
          style={{ left: `${portAt(node, type, index) * 100}%` }} title={told(port, type)} aria-hidden="true"
          onClick={(event) => openPort(event, node.path, port.name, type)}
        />
      ))}
      {ports.length > 1 && (
        <div className={`cn-port-names cn-port-names-${way}`} aria-hidden="true">
          {ports.map((port, index) => <span key={port.name} style={{ left: `${portAt(node, type, index) * 100}%` }}>{port.name}</span>)}
        </div>
      )}
    </>
  );
});

function told(port: PortView, type: "source" | "target"): string {
  const shape = port.shape ? ` [${port.shape.symbolic.join(", ")}] = [${port.shape.actual.join(", ")}]` : "";
  const open = port.wired === false ? (type === "target" ? ", nothing feeds it" : ", nothing reads it") : "";
  return `${port.name}${port.dtype ? `: ${port.dtype}` : ""}${shape}${open}`;
}

