/** The window that is open, if any. */
import type { ReactNode } from "react";

import { useCanvas } from "../store";
import { FindDialog } from "./FindDialog";
import { KeysDialog } from "./KeysDialog";
import { OpenDialog } from "./OpenDialog";
import { guarded } from "./Guard";

export const Dialogs = guarded("This window", function Dialogs(): ReactNode {
  const dialog = useCanvas((state) => state.dialog);
  const close = () => useCanvas.setState({ dialog: null });
  if (dialog === "open") return <OpenDialog onClose={close} />;
  if (dialog === "find") return <FindDialog onClose={close} />;
  if (dialog === "keys") return <KeysDialog onClose={close} />;
  return null;
});
