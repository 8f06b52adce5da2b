/** A modal window: the browser's own, so focus stays inside, Escape closes it, and focus returns. */
import { useId, useLayoutEffect, useRef, type ReactNode } from "react";

import { Icon } from "./icons";

interface DialogProps {
  title: string;
  className?: string;
  onClose(): void;
  children: ReactNode;
}

export function Dialog({ title, className = "", onClose, children }: DialogProps): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  const pressed = useRef(false);

  useLayoutEffect(() => {
    const element = dialog.current!;
    const before = document.activeElement as HTMLElement | null;
    if (!element.open) element.showModal();
    element.querySelector<HTMLElement>(".cp-search input")?.focus();
    return () => {
      element.close();
      before?.focus?.({ preventScroll: true });
    };
  }, []);

  return (
    <dialog
      ref={dialog} className={`cp-dialog ${className}`} aria-labelledby={id}
      onCancel={(event) => { event.preventDefault(); onClose(); }}
      onKeyDown={(event) => event.stopPropagation()} // the canvas' shortcuts rest
      onPointerDown={(event) => { pressed.current = event.target === dialog.current; }}
      onClick={(event) => { if (pressed.current && event.target === dialog.current) onClose(); }}
    >
      <div className="cp-dialog-inside">
        <div className="cp-dialog-head">
          <h2 id={id}>{title}</h2>
          <button type="button" className="cp-button" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
        </div>
        {children}
      </div>
    </dialog>
  );
}
