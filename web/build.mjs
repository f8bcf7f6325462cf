// Bundle the page: `node build.mjs FOLDER`. Names carry their content's hash, so that a browser
// may keep them for ever; each file lies beside its compressed forms.

import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, extname, join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const out = process.argv[2];
const result = await build({
  entryPoints: { page: "src/main.tsx", style: "src/style.css" },
  outdir: join(out, "assets"),
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: true,
  legalComments: "linked",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  metafile: true,
  logLevel: "warning",
});

const entries = Object.entries(result.metafile.outputs)
  .filter(([, output]) => output.entryPoint)
  .map(([path]) => path.slice(path.lastIndexOf("/assets/")));
const script = entries.find((path) => path.endsWith(".js"));
const style = entries.find((path) => path.endsWith(".css"));
const html = (await readFile("src/index.html", "utf8"))
  .replace("/style.css", style)
  .replace("/main.tsx", script);
await mkdir(dirname(join(out, "index.html")), { recursive: true });
await writeFile(join(out, "index.html"), html);

for (const name of await readdir(out, { recursive: true })) {
  if (![".js", ".css", ".html", ".svg"].includes(extname(name))) continue;
  const content = await readFile(join(out, name));
  await writeFile(join(out, `${name}.gz`), gzipSync(content, { level: 9 }));
  await writeFile(
    join(out, `${name}.br`),
    brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: content.length } }),
  );
}
