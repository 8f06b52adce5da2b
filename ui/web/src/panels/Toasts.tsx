/** Short messages, and the offer to go on with work that was not closed. */
import { useEffect, useRef, useState, type ReactNode } from "react";

import { useCanvas, type Toast } from "../store";
import type { Kept } from "../autosave";
import { Icon } from "./icons";
import { useLayout } from "./layout";
import { ago } from "./numbers";
import { guarded } from "./Guard";

const STAY: Record<Toast["kind"], number> = { done: 4000, note: 6000, error: 12_000 };
const ICONS = { done: "check", note: "note", error: "error" } as const;
const MOST = 3;

export const Toasts = guarded("Showing messages", function Toasts(): ReactNode {
  const latest = useCanvas((state) => state.toast);
  const { left, right } = useLayout();
  const [shown, setShown] = useState<Toast[]>([]);

  useEffect(() => {
    if (!latest) return;
    // The open dialog tells of its own errors.
    if (latest.kind === "error" && useCanvas.getState().dialog === "open") return;
    // The same again (a slider drawn across values that do not work) is one message, told anew.
    setShown((before) => [...before.filter((toast) => toast.message !== latest.message), latest].slice(-MOST));
  }, [latest]);

  const close = (id: number) => setShown((before) => before.filter((toast) => toast.id !== id));
  const errors = shown.filter((toast) => toast.kind === "error");
  const others = shown.filter((toast) => toast.kind !== "error");
  return (
    <div className="cp-messages" data-left={left} data-right={right}>
      <RestoreOffer />
      <div className="cp-toasts">
        <div aria-live="assertive" role="alert">{errors.map((toast) => <ToastCard key={toast.id} toast={toast} onClose={close} />)}</div>
        <div aria-live="polite" role="status">{others.map((toast) => <ToastCard key={toast.id} toast={toast} onClose={close} />)}</div>
      </div>
    </div>
  );
});

/** Goes by itself after a while, but not while it is pointed at or has the focus. */
function ToastCard({ toast, onClose }: { toast: Toast; onClose(id: number): void }): ReactNode {
  const [read, setRead] = useState(false);
  const close = useRef(onClose);
  close.current = onClose;
  useEffect(() => {
    if (read) return;
    const timer = setTimeout(() => close.current(toast.id), STAY[toast.kind]);
    return () => clearTimeout(timer);
  }, [read, toast]);
  return (
    <div
      className="cp-toast" data-kind={toast.kind} data-testid="toast" onPointerEnter={() => setRead(true)} onPointerLeave={() => setRead(false)}
      onFocus={() => setRead(true)} onBlur={() => setRead(false)}
    >
      <Icon name={ICONS[toast.kind]} />
      <p><b>{toast.message}</b>{toast.hint && <span>{toast.hint}</span>}</p>
      <button type="button" className="cp-button" aria-label="Dismiss" onClick={() => onClose(toast.id)}><Icon name="close" size={14} /></button>
    </div>
  );
}

function RestoreOffer(): ReactNode {
  const orphans = useCanvas((state) => state.orphans);
  const [busy, setBusy] = useState(false);
  const [newest] = orphans;
  if (!newest) return null;

  async function goOn(kept: Kept): Promise<void> {
    setBusy(true);
    await useCanvas.getState().recover(kept);
    setBusy(false);
  }
  return (
    <section className="cp-restore" aria-label="Work that was not closed" data-testid="restore">
      <p>
        Work from {ago(newest.time)} was not closed: <b>{newest.name || "a document"}</b>
        {orphans.length > 1 && <span> (and {orphans.length - 1} more)</span>}
      </p>
      <button type="button" className="cp-button cp-primary" disabled={busy} onClick={() => void goOn(newest)}>Go on with it</button>
      <button type="button" className="cp-button cp-plain" disabled={busy} onClick={() => useCanvas.getState().discard(newest)}>Discard</button>
    </section>
  );
}
