/** The panel on the left: what can be added, and what is there. */
import { useId, type KeyboardEvent, type ReactNode } from "react";

import { useCanvas } from "../store";
import { arrange, useLayout, type Layout } from "./layout";
import { Outline } from "./Outline";
import { Palette } from "./Palette";
import { plural } from "./numbers";
import { guarded } from "./Guard";

const TABS: { id: Layout["tab"]; label: string }[] = [{ id: "palette", label: "Palette" }, { id: "outline", label: "Outline" }];

export const LeftPanel = guarded("The left panel", function LeftPanel(): ReactNode {
  const { left, tab } = useLayout();
  const problems = useCanvas((state) => state.problems);
  const id = useId();
  if (!left) return <div />;

  function key(event: KeyboardEvent<HTMLElement>): void {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    event.stopPropagation();
    const other = TABS.find((each) => each.id !== tab)!;
    arrange({ tab: other.id });
    document.getElementById(`${id}-${other.id}`)?.focus();
  }

  const worst = problems.some((problem) => problem.severity === "error") ? "error" : "warning";
  return (
    <aside className="cp-panel cp-left" aria-label="Palette and outline">
      <div className="cp-tabs" role="tablist" aria-label="Left panel" onKeyDown={key}>
        {TABS.map((each) => (
          <button
            key={each.id} id={`${id}-${each.id}`} type="button" role="tab" aria-selected={tab === each.id} aria-controls={`${id}-panel`}
            tabIndex={tab === each.id ? 0 : -1} onClick={() => arrange({ tab: each.id })}
          >
            {each.label}
            {each.id === "outline" && problems.length > 0 && (
              <span className="cp-badge" data-severity={worst} data-testid="problem-count" aria-label={plural(problems.length, "problem")}>{problems.length}</span>
            )}
          </button>
        ))}
      </div>
      <div id={`${id}-panel`} className="cp-tab-panel" role="tabpanel" aria-labelledby={`${id}-${tab}`}>
        {tab === "palette" ? <Palette /> : <Outline />}
      </div>
    </aside>
  );
});
