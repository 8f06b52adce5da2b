/** The panel on the right: the selection, and what the whole costs. */
import type { ReactNode } from "react";

import { Icon } from "./icons";
import { Inspector } from "./Inspector";
import { arrange, useLayout } from "./layout";
import { Resources } from "./Resources";
import { guarded } from "./Guard";

export const RightPanel = guarded("The right panel", function RightPanel(): ReactNode {
  const { right, inspector, resources } = useLayout();
  if (!right) return <div />;
  return (
    <aside className="cp-panel cp-right" aria-label="Inspector and resources">
      <section className="cp-section cp-inspector" data-inspector aria-label="Inspector" data-open={inspector}>
        <Head title="Inspector" open={inspector} onToggle={() => arrange({ inspector: !inspector })} />
        {inspector && <Inspector />}
      </section>
      <section className="cp-section cp-resources" aria-label="Resources" data-open={resources}>
        <Head title="Resources" open={resources} onToggle={() => arrange({ resources: !resources })} />
        {resources && <Resources />}
      </section>
    </aside>
  );
});

function Head({ title, open, onToggle }: { title: string; open: boolean; onToggle(): void }): ReactNode {
  return (
    <h2 className="cp-section-head">
      <button type="button" aria-expanded={open} onClick={onToggle}>
        <Icon name="down" size={12} />
        {title}
      </button>
    </h2>
  );
}
