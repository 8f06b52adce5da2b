/** A field to search in: the arrow down leads into the list, Escape empties it. */
import type { KeyboardEvent, ReactNode, Ref } from "react";

import { Icon } from "./icons";

interface SearchBoxProps {
  label: string;
  value: string;
  ref?: Ref<HTMLInputElement>;
  /** Of the list that it searches, where that has an active item. */
  listbox?: { id: string; active: string | undefined; open: boolean };
  onChange(value: string): void;
  onDown?(): void;
  onUp?(): void;
  onEnter?(): void;
}

export function SearchBox({ label, value, ref, listbox, onChange, onDown, onUp, onEnter }: SearchBoxProps): ReactNode {
  function key(event: KeyboardEvent<HTMLInputElement>): void {
    if (event.key === "ArrowDown") onDown?.();
    else if (event.key === "ArrowUp") onUp?.();
    else if (event.key === "Enter") onEnter?.();
    else if (event.key === "Escape" && value) onChange("");
    else {
      // Escape on an empty field goes on to what is around it; letters are no shortcuts here.
      if (!event.ctrlKey && !event.metaKey && event.key !== "Escape") event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
  return (
    <div className="cp-search">
      <Icon name="search" size={14} />
      <input
        ref={ref} className="cv-input" type="text" spellCheck={false} autoComplete="off" placeholder={label} aria-label={label} value={value}
        {...(listbox && {
          role: "combobox", "aria-autocomplete": "list" as const, "aria-controls": listbox.id, "aria-expanded": listbox.open,
          "aria-activedescendant": listbox.active,
        })}
        onChange={(event) => onChange(event.target.value)} onKeyDown={key}
      />
    </div>
  );
}
