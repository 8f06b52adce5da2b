/** The editor's page: palette, canvas, and what is known of the selection and the whole. */
import { Canvas } from "./canvas/Canvas";
import { Dialogs } from "./panels/Dialogs";
import { LeftPanel } from "./panels/LeftPanel";
import { RightPanel } from "./panels/RightPanel";
import { Toasts } from "./panels/Toasts";
import { Toolbar } from "./panels/Toolbar";
import { useCanvas } from "./store";

export function App() {
  const dark = useCanvas((state) => state.dark);
  return (
    <div className={`cv-app${dark ? " cv-dark" : ""}`}>
      <Toolbar />
      <div className="cv-body">
        <LeftPanel />
        <div className="cv-main" role="region" aria-label="Graph">
          <Canvas />
        </div>
        <RightPanel />
      </div>
      <Dialogs />
      <Toasts />
    </div>
  );
}
