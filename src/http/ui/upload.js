// Adding documents: choose or drop files; each says what became of it.

import { $, count, el } from "./render.js";
import { Problem, send } from "./server.js";

$("add").addEventListener("click", () => toggleUpload($("upload").hidden));
$("files").addEventListener("change", async () => {
  const files = [...$("files").files];
  $("files").value = ""; // so that choosing the same file again counts as a change
  await addFiles(files);
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, () => $("drop").classList.toggle("over", kind === "dragover"));
}
for (const kind of ["dragover", "drop"]) {
  // A file dropped anywhere must not replace the page.
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (kind === "drop") {
      toggleUpload(true);
      addFiles([...event.dataTransfer.files]);
    }
  });
}

/** Opens the panel for somebody who has no documents yet. */
export function offerUpload() {
  $("upload-title").textContent = "No documents yet";
  $("upload-lede").textContent = `Add some, then ask about them. ${$("upload-lede").textContent}`;
  toggleUpload(true);
}

function toggleUpload(open) {
  $("upload").hidden = !open;
  $("add").ariaExpanded = String(open);
}

async function addFiles(files) {
  const rows = files.map((file) => {
    const state = el("span", { className: "state", textContent: "Waiting …" });
    const row = el("li", {}, el("span", { textContent: file.name }), state);
    $("uploads").append(row);
    return { file, row, state };
  });
  for (const { file, row, state } of rows) {
    state.textContent = "Adding …";
    try {
      state.textContent = await addFile(file);
      row.dataset.state = "good";
      $("upload-title").textContent = "Add documents";
    } catch (error) {
      state.textContent = error.title ?? "Not added";
      row.dataset.state = "bad";
      row.append(el("span", { className: "why", textContent: error.detail ?? String(error) }));
    }
  }
}

/** Posts one file; the words say what became of it. */
async function addFile(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  const response = await send("api/v1/documents", { method: "POST", body });
  const [{ status, passages }] = (await response.json()).documents;
  if (status === "unchanged") return "Already there";
  const verb = status === "updated" ? "Updated" : "Added";
  return passages ? `${verb}, ${count(passages, "passage")}` : verb;
}
