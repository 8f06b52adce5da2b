/** Buttons with a tip: what it does, and its keys. */
import type { ReactNode } from "react";

import { Icon, type IconName } from "./icons";

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

/** Keys as this computer calls them. */
export const keys = (text: string): string => (APPLE ? text.replace("Ctrl+", "⌘").replace("Shift+", "⇧").replace("Alt+", "⌥") : text);

interface IconButtonProps {
  icon: IconName;
  /** Its name, and the first words of its tip. */
  label: string;
  /** More for the tip. */
  tip?: string;
  shortcut?: string;
  /** Words beside the icon, left out where the window is narrow. */
  text?: string;
  pressed?: boolean;
  disabled?: boolean;
  /** Which edge the tip keeps to. */
  side?: "start" | "end";
  testId?: string;
  onClick(): void;
}

export function IconButton({ icon, label, tip, shortcut, text, pressed, disabled, side, testId, onClick }: IconButtonProps): ReactNode {
  const said = [tip ?? label, shortcut && `(${keys(shortcut)})`].filter(Boolean).join(" ");
  return (
    <button
      type="button" className="cp-button cp-tip" data-tip={said} data-side={side} aria-label={label} aria-pressed={pressed}
      aria-disabled={disabled || undefined} data-testid={testId} onClick={() => !disabled && onClick()}
    >
      <Icon name={icon} />
      {text && <span className="cp-button-text">{text}</span>}
    </button>
  );
}
