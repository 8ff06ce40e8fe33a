// Which collection is asked and added to; and making a new one.

import { $, el } from "./render.js";
import { post, send } from "./server.js";

const CHOSEN = "ragway.collection";

/** The name of the collection in use. */
export function collection() {
  return $("collection").value || "default";
}

/** `changed` is called when another one is chosen. */
export function startCollections(changed) {
  $("collection").addEventListener("change", () => {
    localStorage.setItem(CHOSEN, collection());
    changed();
  });
  $("new-collection").addEventListener("click", openCreation);
  $("creation-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("creation-error").textContent = "";
    try {
      const model = $("creation-model").value;
      const made = await post("api/v1/collections", { name: $("creation-name").value.trim(), ...(model && { model }) });
      localStorage.setItem(CHOSEN, made.name);
      await loadCollections();
      $("creation").close();
      changed();
    } catch (error) {
      $("creation-error").textContent = error.detail ?? String(error);
    }
  });
}

/** Fills the list; the one chosen before stays chosen while it exists. */
export async function loadCollections() {
  const { collections } = await (await send("api/v1/collections")).json();
  const names = collections.map(({ name }) => name);
  if (!names.includes("default")) names.unshift("default");
  const chosen = localStorage.getItem(CHOSEN);
  $("collection").replaceChildren(...names.map((name) => el("option", { value: name, textContent: name })));
  $("collection").value = names.includes(chosen) ? chosen : "default";
}

async function openCreation() {
  $("creation-name").value = "";
  $("creation-error").textContent = "";
  $("creation").showModal();
  const { models } = await (await send("health")).json();
  const options = models.map(({ model_type: type, model }) =>
    el("option", { value: type, textContent: model ? `${type} (${model})` : type }));
  $("creation-model").replaceChildren(...options);
  $("creation-model").value = "text-embedding";
}
