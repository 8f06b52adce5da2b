/** The level as a tree: the way through the graph without a mouse. Only rows in view are in the page. */
import { useEffect, useId, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import type { NodeView } from "../protocol";
import { useCanvas, type State } from "../store";
import { Icon } from "./icons";
import { matches } from "./Palette";
import { groupColour } from "./parts";
import { Problems } from "./Problems";
import { SearchBox } from "./SearchBox";

/** A row: a node of the level, or layers of a stack that are alike. */
interface Row {
  key: string;
  level: number;
  node: NodeView | null;
  label: string;
  detail: string;
  group: string;
  severity: NodeView["severity"];
  /** The level that Enter goes into. */
  enter: string | null;
  /** Null: it has nothing to unfold. */
  open: boolean | null;
  parent: string | null;
  index: number;
  of: number;
}

const HEIGHT = 26;
const AROUND = 12;

function nodeRow(node: NodeView, level: number, index: number, of: number): Row {
  const unfolds = node.kind === "frame" || (node.kind === "use" && node.enter != null);
  return {
    key: node.path, level, node, label: node.id, detail: node.repeat ? `× ${node.repeat} ${node.title}` : node.title, group: node.group,
    severity: node.severity ?? null, enter: node.enter ?? null, open: unfolds ? node.kind === "frame" : null, parent: node.parent ?? null, index, of,
  };
}

function rowsOf(order: readonly string[], nodes: State["nodes"], query: string): Row[] {
  const children = new Map<string | null, NodeView[]>();
  for (const path of order) {
    const node = nodes.get(path);
    if (!node) continue;
    const parent = node.parent && nodes.has(node.parent) ? node.parent : null;
    children.set(parent, [...(children.get(parent) ?? []), node]);
  }
  const keep = (node: NodeView): boolean =>
    matches(query, node.id, node.title, node.detail) || (children.get(node.path) ?? []).some(keep);
  const rows: Row[] = [];
  function add(parent: string | null, level: number): void {
    const all = (children.get(parent) ?? []).filter(keep);
    all.forEach((node, index) => {
      const row = nodeRow(node, level, index + 1, all.length);
      rows.push(row);
      const variants = (node.variants ?? []).length > 1 ? node.variants! : [];
      if (variants.length) row.open = true;
      variants.forEach((variant, at) => rows.push({
        key: `${node.path}/${variant.path}`, level: level + 1, node: null, label: `layers ${variant.layers}`, detail: variant.label || variant.block,
        group: node.group, severity: null, enter: variant.path, open: null, parent: node.path, index: at + 1, of: variants.length,
      }));
      add(node.path, level + 1);
    });
  }
  add(null, 1);
  return rows;
}

export function Outline(): ReactNode {
  const order = useCanvas((state) => state.order);
  const nodes = useCanvas((state) => state.nodes);
  const selection = useCanvas((state) => state.selection);
  const crumbs = useCanvas((state) => state.crumbs);
  const path = useCanvas((state) => state.path);
  const [query, setQuery] = useState("");
  const rows = useMemo(() => rowsOf(order, nodes, query.trim()), [order, nodes, query]);
  const [active, setActive] = useState<string | null>(null);
  const [range, setRange] = useState({ top: 0, height: 600 });
  const scroll = useRef<HTMLDivElement>(null);
  const tree = useRef<HTMLDivElement>(null);
  const filter = useRef<HTMLInputElement>(null);
  const id = useId();
  const at = Math.max(0, rows.findIndex((row) => row.key === active));
  const { select, look, set } = useCanvas.getState();
  const up = crumbs.length > 1 ? crumbs.at(-2)! : null;

  useEffect(() => {
    const box = scroll.current!;
    const measure = () => setRange({ top: box.scrollTop, height: box.clientHeight });
    const watch = new ResizeObserver(measure);
    watch.observe(box);
    return () => watch.disconnect();
  }, []);

  useEffect(() => setQuery(""), [path]);

  // What is selected on the canvas is brought into view here, and the keys go on from there.
  useEffect(() => {
    if (selection.size !== 1) return;
    const [only] = selection;
    setActive(only!);
    show(rows.findIndex((row) => row.key === only));
  }, [selection]);

  function show(index: number): void {
    const box = scroll.current;
    if (!box || index < 0) return;
    const top = index * HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + HEIGHT - box.clientHeight;
  }

  function go(index: number): void {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))];
    if (!row) return;
    setActive(row.key);
    show(rows.indexOf(row));
  }

  function choose(row: Row, more: boolean): void {
    setActive(row.key);
    if (!row.node) return void (row.enter !== null && look(row.enter));
    if (more) select(selection.has(row.key) ? [...selection].filter((other) => other !== row.key) : [...selection, row.key]);
    else {
      select([row.key]);
      set({ goal: row.key });
    }
  }

  /** Show a block's inside in place, or fold it away. The server lays out what a level shows: it is asked. */
  function unfold(row: Row, open: boolean): void {
    if (!row.node) return;
    const { expanded } = useCanvas.getState();
    void look(path, open ? [...expanded, row.key] : expanded.filter((other) => other !== row.key && !other.startsWith(`${row.key}.`)));
  }

  function key(event: KeyboardEvent): void {
    const row = rows[at];
    const chord = event.ctrlKey || event.metaKey || event.altKey;
    if (chord || !row) return;
    const page = Math.max(1, Math.floor(range.height / HEIGHT) - 1);
    const to: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + page, PageUp: at - page };
    if (event.key in to) go(to[event.key]!);
    else if (event.key === "ArrowRight") {
      if (row.open === false) unfold(row, true);
      else if (row.open) go(at + 1);
    } else if (event.key === "ArrowLeft") {
      if (row.node?.kind === "frame") unfold(row, false);
      else if (row.parent) go(rows.findIndex((other) => other.key === row.parent));
    } else if (event.key === "Enter") {
      if (row.enter !== null && (!row.node || (selection.size === 1 && selection.has(row.key)))) void look(row.enter);
      else choose(row, false);
    } else if (event.key === " ") choose(row, true);
    else if (event.key === "Backspace" && up) void look(up.path);
    else if (/^[\p{L}\p{N}_]$/u.test(event.key)) {
      filter.current?.focus();
      setQuery(query + event.key);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const first = Math.max(0, Math.floor(range.top / HEIGHT) - AROUND);
  const last = Math.min(rows.length, Math.ceil((range.top + range.height) / HEIGHT) + AROUND);
  const drawn = rows.map((row, index) => ({ row, index })).filter(({ index }) => (index >= first && index < last) || index === at);

  return (
    <>
      <SearchBox
        label="Filter this level" ref={filter} value={query} onChange={setQuery}
        onDown={() => { go(0); tree.current?.focus(); }} onEnter={() => rows[0] && choose(rows[0], false)}
      />
      <div className="cp-outline-head">
        {up && <button type="button" className="cp-link" onClick={() => void look(up.path)} title="Backspace"><Icon name="up" size={12} />{up.label}</button>}
        <b>{crumbs.at(-1)?.label ?? ""}</b>
      </div>
      <div
        className="cv-scroll cp-outline" ref={scroll}
        onScroll={(event) => setRange({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })}
      >
        <div
          className="cp-tree" role="tree" aria-label="Nodes of this level" aria-multiselectable tabIndex={0} ref={tree} style={{ height: rows.length * HEIGHT }}
          aria-activedescendant={rows[at] ? `${id}-${at}` : undefined} onKeyDown={key}
        >
          {drawn.map(({ row, index }) => (
            <div
              key={row.key} id={`${id}-${index}`} role="treeitem" className={`cp-row${index === at ? " cp-active" : ""}`} data-dead={row.node?.dead || undefined}
              aria-level={row.level} aria-posinset={row.index} aria-setsize={row.of} aria-selected={selection.has(row.key)}
              aria-expanded={row.open ?? undefined} title={row.node?.problem || `${row.label}  ${row.detail}`}
              style={{ top: index * HEIGHT, "--level": row.level - 1, "--group": groupColour(row.group) } as React.CSSProperties}
              onClick={(event) => choose(row, event.ctrlKey || event.metaKey || event.shiftKey)}
              onDoubleClick={() => row.enter !== null && void look(row.enter)}
            >
              {row.open === null || !row.node || row.node.kind === "stack" ? (
                <i className="cp-twist" />
              ) : (
                <i className="cp-twist" onClick={(event) => { event.stopPropagation(); unfold(row, !row.open); }}><Icon name="down" size={10} /></i>
              )}
              <i className="cp-dot" />
              <span>{row.label}</span>
              <small>{row.detail}</small>
              {row.severity && <em className="cp-severity" data-severity={row.severity} role="img" aria-label={row.severity}><Icon name={row.severity} size={12} /></em>}
            </div>
          ))}
        </div>
        {!rows.length && <p className="cp-empty">{order.length ? "No node of this level is called so." : "This level is empty: add nodes from the palette."}</p>}
      </div>
      <Problems />
    </>
  );
}
