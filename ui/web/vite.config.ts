import { defineConfig } from "vite";

// One ES module and one style sheet, named alike in every build: the page asks for them with the hash of their content.
// Not vite's library mode, which leaves white space and names as they are.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../canvas_ui/static",
    emptyOutDir: true,
    target: "es2022",
    cssCodeSplit: false,
    modulePreload: false,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 700, // kB before compression; the budget is 200 kB gzipped, and a test holds it
    rolldownOptions: {
      input: "src/main.tsx",
      preserveEntrySignatures: "strict",
      output: { entryFileNames: "canvas.js", chunkFileNames: "canvas-[name].js", assetFileNames: "canvas[extname]" },
      onLog: (level, log, report) => void (log.code === "MODULE_LEVEL_DIRECTIVE" || report(level, log)),
    },
  },
});
