// Light or dark as the reader chose before. Not a module: it runs before the page is painted.
{
  const chosen = localStorage.getItem("ragway.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
