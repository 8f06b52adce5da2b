/** The keys, in one table. */
import { Fragment, type ReactNode } from "react";

import { keys } from "./Button";
import { Dialog } from "./Dialog";

const TABLE: { title: string; rows: [string[], string][] }[] = [
  {
    title: "Move around",
    rows: [
      [["Double-click", "Enter"], "Go into a block or stack"],
      [["Esc"], "Go out again, or close what is open"],
      [["Ctrl+F"], "Find a node in the whole model"],
      [["F"], "Fit the level into view"],
      [["+", "-"], "Zoom"],
      [["Alt+Arrows"], "Walk along wires"],
      [["N", "P"], "The next node, the one before"],
      [["S"], "Shapes on all wires"],
    ],
  },
  {
    title: "Build",
    rows: [
      [["Tab", "Right click"], "Add a node"],
      [["C"], "Connect from the selected output"],
      [["Shift+C"], "Connect to the selected input"],
      [["L"], "Lay the level out again"],
      [["W"], "Select the node's wires, one after the other"],
      [["Arrows"], "Move what is selected; with Shift, further"],
    ],
  },
  {
    title: "Change",
    rows: [
      [["Ctrl+Z"], "Undo"],
      [["Ctrl+Shift+Z"], "Redo"],
      [["Ctrl+C", "X", "V"], "Copy, cut, paste"],
      [["Ctrl+D"], "Duplicate"],
      [["Ctrl+A"], "Select all"],
      [["Del"], "Delete, and join the wires around it"],
      [["Shift+Del"], "Delete, and leave the gap"],
    ],
  },
  {
    title: "Numbers",
    rows: [
      [["Up", "Down"], "One step; with Shift, ten"],
      [["="], "Begins an expression, such as =head_dim * 2"],
      [["Enter"], "Take it over"],
      [["Esc"], "Take it back"],
      [["?"], "This table"],
    ],
  },
];

export function KeysDialog({ onClose }: { onClose(): void }): ReactNode {
  return (
    <Dialog title="Keyboard shortcuts" className="cp-keys" onClose={onClose}>
      <div className="cv-scroll cp-keys-body" tabIndex={0} role="region" aria-label="All shortcuts">
        {TABLE.map((part) => (
          <table key={part.title}>
            <caption>{part.title}</caption>
            <tbody>
              {part.rows.map(([chords, what]) => (
                <tr key={what}>
                  <th scope="row">{chords.map((chord, index) => <Fragment key={chord}>{index > 0 && " "}<Chord text={keys(chord)} /></Fragment>)}</th>
                  <td>{what}</td>
                </tr>
              ))}
            </tbody>
          </table>
        ))}
      </div>
    </Dialog>
  );
}

const Chord = ({ text }: { text: string }): ReactNode => <kbd>{text.replaceAll("+", " + ")}</kbd>;
