// Adding documents: choose or drop files; each says what became of it.

import { $, el } from "./render.js";
import { postForm } from "./server.js";
import { t } from "./words.js";

/** `collection` says where to; `stored` is called when something was added. */
export function startUpload(collection, stored) {
  const add = (files) => addFiles(files, collection(), stored);
  $("add").addEventListener("click", () => toggleUpload($("upload").hidden));
  $("files").addEventListener("change", () => {
    const files = [...$("files").files];
    $("files").value = ""; // so that choosing the same file again counts as a change
    add(files);
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
        add([...event.dataTransfer.files]);
      }
    });
  }
}

/** Opens the panel for somebody who has no documents yet, and says so. */
export function offerUpload(empty) {
  $("upload-title").textContent = t(empty ? "no-documents" : "add");
  $("upload-lede").textContent = empty ? `${t("add-first")} ${t("formats")}` : t("formats");
  if (empty) toggleUpload(true);
}

function toggleUpload(open) {
  $("upload").hidden = !open;
  $("add").ariaExpanded = String(open);
}

async function addFiles(files, collection, stored) {
  const rows = files.map((file) => {
    const state = el("span", { className: "state", textContent: t("waiting"), role: "status" });
    const row = el("li", {}, el("span", { textContent: file.name }), state);
    $("uploads").append(row);
    return { file, row, state };
  });
  for (const { file, row, state } of rows) {
    const bar = el("progress", { max: 1, value: 0, ariaLabel: file.name });
    row.append(bar);
    const sent = (share) => {
      bar.value = share;
      state.textContent = share < 1 ? t("sending", Math.floor(share * 100)) : t("storing");
      // What is left takes as long as it takes.
      if (share === 1) bar.removeAttribute("value");
    };
    try {
      state.textContent = await addFile(file, collection, sent);
      row.dataset.state = "good";
    } catch (error) {
      state.textContent = t("not-added");
      row.dataset.state = "bad";
      row.append(el("span", { className: "why", textContent: error.detail || error.title || String(error) }));
    }
    bar.remove();
  }
  await stored().catch(() => {});
}

/** Posts one file; the words say what became of it. */
async function addFile(file, collection, sent) {
  const body = new FormData();
  body.append("file", file, file.name);
  const address = `api/v1/documents?collection=${encodeURIComponent(collection)}`;
  const { documents } = await postForm(address, body, sent);
  const [{ status, passages }] = documents;
  if (status === "unchanged") return t("unchanged");
  return t(status === "updated" ? "updated" : "added", passages);
}
