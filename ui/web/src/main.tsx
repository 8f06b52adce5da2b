/** The bundle's door: put the editor, or the charts, into an element. */
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { mountCharts } from "./charts";
import { begin, useCanvas, type Hooks } from "./store";
import type { Envelope, Reply } from "./protocol";
import type { Exchange } from "./transport";
import "./theme.css";

/** Calls through a Gradio component's server functions. An error in Python arrives as `undefined` there. */
export function gradioExchange(server: { exchange(envelope: Envelope): Promise<Reply | undefined> }): Exchange {
  return (envelope) => server.exchange(envelope);
}

/** Calls by HTTP, for a page without Gradio. */
export function httpExchange(url: string): Exchange {
  return async (envelope) => {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(envelope),
    });
    return answer.ok ? ((await answer.json()) as Reply) : null;
  };
}

/** Start the editor in an element. The page's theme is followed: Gradio marks dark pages with a class on the body. */
export function mount(element: HTMLElement, hooks: Hooks): void {
  const follow = () => useCanvas.setState({ dark: document.body.classList.contains("dark") });
  new MutationObserver(follow).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  follow();
  element.classList.add("cv-root");
  createRoot(element).render(<App />);
  void begin(hooks);
}

export { mountCharts };
