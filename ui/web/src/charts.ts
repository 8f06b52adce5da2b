/** The plotly figures, kept in place while they change: zoom and hover survive. */
import type { Envelope, Reply } from "./protocol";
import { useCanvas } from "./store";
import type { Exchange, Request } from "./transport";
import "./charts.css";

interface Figure {
  data: unknown[];
  layout?: Record<string, unknown>;
}

interface Plotly {
  react(element: HTMLElement, data: unknown[], layout: unknown, config: unknown): Promise<unknown>;
  Plots: { resize(element: HTMLElement): void };
}

export interface ChartsOptions {
  /** Where plotly.min.js is. */
  plotly: string;
  /** Ask another server, or session, than the editor of this page: both, or neither. */
  exchange?: Exchange;
  session?: string | (() => string);
}

export interface Charts {
  /** Draw anew, once calls have paused, and as soon as the charts are in view. */
  refresh(): void;
}

const FIGURES = [
  { name: "memory", title: "Memory by part", about: "What the card must hold at the peak, beside what it has." },
  { name: "parameters", title: "Parameters by node", about: "Where the learned numbers are, all layers together." },
  { name: "roofline", title: "Roofline", about: "What bounds each kernel: arithmetic on the right, memory traffic on the left." },
  { name: "timeline", title: "Memory over the step", about: "What is allocated at each moment of one run." },
] as const;

const PAUSE = 500;
const CONFIG = { displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"] };
let loading: Promise<Plotly> | null = null;

/** plotly.min.js, once for the page. */
function load(url: string): Promise<Plotly> {
  const known = (window as { Plotly?: Plotly }).Plotly;
  if (known) return Promise.resolve(known);
  loading ??= new Promise<Plotly>((done, failed) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => done((window as { Plotly?: Plotly }).Plotly!);
    script.onerror = () => {
      loading = null; // the next refresh tries again
      script.remove();
      failed(new Error("plotly.min.js could not be loaded"));
    };
    document.head.append(script);
  });
  return loading;
}

function make<K extends keyof HTMLElementTagNameMap>(tag: K, className: string, text = ""): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The four cards, and the line that stands in for them. */
function build(element: HTMLElement): { root: HTMLElement; word: HTMLElement; plots: Map<string, HTMLElement> } {
  const root = make("div", "cv-charts");
  const word = make("p", "cv-charts-word", "Drawing…");
  word.setAttribute("role", "status");
  const grid = make("div", "cv-charts-grid");
  const plots = new Map<string, HTMLElement>();
  for (const { name, title, about } of FIGURES) {
    const card = make("section", "cv-chart");
    const plot = make("div", "cv-plot");
    card.dataset.testid = `chart-${name}`;
    card.setAttribute("aria-label", title);
    card.append(make("h3", "", title), make("p", "", about), plot);
    grid.append(card);
    plots.set(name, plot);
  }
  root.append(word, grid);
  element.replaceChildren(root);
  return { root, word, plots };
}

function problems(): string {
  const errors = useCanvas.getState().problems.filter((problem) => problem.severity === "error").length;
  return errors ? `Fix ${errors} ${errors === 1 ? "problem" : "problems"} to see the charts.` : "There is nothing to draw yet.";
}

export function mountCharts(element: HTMLElement, options: ChartsOptions): Charts {
  const { root, word, plots } = build(element);
  let visible = false;
  let stale = true;
  let drawing = false;
  let serial = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const dark = () => document.body.classList.contains("dark");
  const own = () => useCanvas.getState().ready;
  const say = (text: string) => {
    word.textContent = text;
    root.dataset.state = text ? "empty" : "drawn";
  };

  /** Through the editor's own queue where there is one: its requests are counted, and ours must not come between. */
  async function ask(request: Request): Promise<Reply | null | undefined> {
    if (!options.exchange) return useCanvas.getState().send(request);
    const session = typeof options.session === "function" ? options.session() : (options.session ?? "");
    return options.exchange({ session, serial: serial++, request } satisfies Envelope).catch(() => null);
  }

  async function draw(): Promise<void> {
    if (drawing || !visible || !stale || (!options.exchange && !own())) return;
    drawing = true;
    stale = false;
    try {
      const [plotly, reply] = await Promise.all([load(options.plotly), ask({ type: "figures", dark: dark() })]);
      const figures = (reply?.figures ?? {}) as Record<string, Figure>;
      root.classList.toggle("cv-dark", dark());
      if (!reply) say("The server cannot be reached: the charts come back with it.");
      else if (!reply.ok) say([reply.error?.message, reply.error?.hint].filter(Boolean).join(" ") || problems());
      else if (!Object.keys(figures).length) say(problems());
      else {
        say(""); // shown before they are drawn: plotly measures them
        await Promise.all([...plots].map(([name, plot]) => show(plotly, plot, figures[name])));
      }
    } catch (error) {
      say(`The charts could not be drawn: ${error instanceof Error ? error.message : String(error)}.`);
    }
    drawing = false;
    if (stale) refresh();
  }

  async function show(plotly: Plotly, plot: HTMLElement, figure: Figure | undefined): Promise<void> {
    plot.hidden = !figure;
    if (!figure) return;
    const { width: _width, height: _height, ...layout } = figure.layout ?? {};
    // room for the bar of buttons, and for notes that stand above the plot
    const margin = { ...(layout.margin as object | undefined), t: 24 };
    await plotly.react(plot, figure.data, { ...layout, margin, autosize: true, uirevision: "keep" }, CONFIG);
  }

  function refresh(): void {
    stale = true;
    clearTimeout(timer);
    timer = setTimeout(() => void draw(), PAUSE);
  }

  new IntersectionObserver((entries) => {
    visible = entries.at(-1)!.isIntersecting;
    if (visible && stale) void draw();
  }).observe(root);
  // plotly follows the window; a tab or a panel that opens changes only the element
  new ResizeObserver(() => {
    const { Plotly: plotly } = window as { Plotly?: Plotly };
    if (plotly && visible && root.dataset.state === "drawn") for (const plot of plots.values()) if (plot.childElementCount && !plot.hidden) plotly.Plots.resize(plot);
  }).observe(root);
  new MutationObserver(() => {
    root.classList.toggle("cv-dark", dark());
    refresh();
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  useCanvas.subscribe((now, before) => {
    if (now.totals !== before.totals || now.ready !== before.ready || now.name !== before.name) refresh();
  });

  root.classList.toggle("cv-dark", dark());
  say("Drawing…");
  refresh();
  return { refresh };
}
