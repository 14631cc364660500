/* Live cells. `nox -s live` opens the book with the token of a Jupyter server on this machine; pages with code then get a
   bar that turns their cells into editors. Without a token this script does nothing, so the published book has no dead button. */
(() => {
  const KEY = "paperkit-token";
  const STATIC = new URL("..", document.currentScript.src);
  if (!location.protocol.startsWith("http")) return;

  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  const token = sessionStorage.getItem(KEY);
  if (!token) return;
  document.documentElement.dataset.live = "yes";

  /* Mark each cell's source and the place of its output: thebe pairs the two by position, so every cell needs both. */
  function markCells() {
    for (const cell of document.querySelectorAll("div.cell")) {
      const source = cell.querySelector("div.cell_input pre");
      if (!source) continue;
      source.dataset.pkSource = "";
      let output = cell.querySelector("div.cell_output");
      if (!output) {
        output = document.createElement("div");
        output.className = "cell_output";
        cell.append(output);
      }
      const figure = output.querySelector("figure:has(figcaption)");
      if (figure) {
        // The caption stays when the figure is drawn again.
        const drawn = document.createElement("div");
        drawn.append(...[...figure.childNodes].filter((node) => node.nodeName !== "FIGCAPTION"));
        figure.prepend(drawn);
        output = drawn;
      }
      output.dataset.pkOutput = "";
    }
  }

  const load = (tag, attributes) =>
    new Promise((resolve, reject) => {
      const element = Object.assign(document.createElement(tag), attributes);
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${attributes.src || attributes.href} cannot be loaded`));
      document.head.append(element);
    });

  /* A cell first runs the ones above it that have not run: what it needs is there. */
  function runInOrder(cells) {
    cells.forEach((cell, index) => {
      const execute = cell.execute.bind(cell);
      cell.pkHasRun = false;
      cell.execute = async (source) => {
        for (const earlier of cells.slice(0, index)) if (!earlier.pkHasRun) await earlier.execute(earlier.source);
        cell.pkHasRun = true;
        const output = cell.area?.node;
        output?.setAttribute("aria-busy", "true");
        try {
          return await execute(source);
        } finally {
          output?.removeAttribute("aria-busy");
        }
      };
    });
  }

  async function start(say) {
    const base = location.origin;
    const answer = await fetch(`${base}/api/status`, { headers: { Authorization: `token ${token}` } });
    if (!answer.ok) throw new Error("the server does not know this page; start it again and use the address it prints");
    document.querySelectorAll("details.hide").forEach((details) => (details.open = true));
    markCells();
    say("Loading the editor …");
    await load("link", { rel: "stylesheet", href: new URL("vendor/thebe/thebe.css", STATIC).href });
    await load("script", { src: new URL("vendor/thebe/index.js", STATIC).href });
    say("Starting a kernel …");
    const page = location.pathname.replace(/^.*\/static\//, "").replace(/\.html$/, "");
    const { notebook, session } = await window.thebe.bootstrap({
      requestKernel: true,
      useBinder: false,
      selector: "[data-pk-source]",
      outputSelector: "[data-pk-output]",
      mountRunAllButton: false,
      mountRestartButton: false,
      mountRestartAllButton: false,
      mathjaxUrl: new URL("js/mathjax-bridge.js", STATIC).href,
      mathjaxConfig: "none",
      codeMirrorConfig: { theme: "default", lineNumbers: false, autoRefresh: true },
      kernelOptions: { kernelName: "python3", path: page },
      serverSettings: { baseUrl: base, wsUrl: base.replace(/^http/, "ws"), token, appendToken: true },
    });
    if (!session) throw new Error("no kernel could be started");
    runInOrder(notebook.cells);
    return { notebook, session };
  }

  function button(text, title, action) {
    const element = document.createElement("button");
    Object.assign(element, { type: "button", textContent: text, title, onclick: action });
    return element;
  }

  function mount() {
    const article = document.querySelector(".bd-article");
    if (!article?.querySelector("div.cell div.cell_input pre")) return;
    const bar = document.createElement("div");
    bar.className = "pk-live";
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", "Live cells");
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    status.textContent = "The cells of this page can run on your machine.";
    const say = (text) => (status.textContent = text);
    const launch = button("Run this page", "Start a kernel and turn the cells into editors", async () => {
      launch.disabled = true;
      try {
        const { notebook, session } = await start(say);
        const all = button("Run all cells", "Run the cells from top to bottom", async () => {
          all.disabled = true;
          say("Running …");
          for (const cell of notebook.cells) cell.pkHasRun = false;
          await notebook.cells.at(-1).execute(notebook.cells.at(-1).source);
          say("Ready.");
          all.disabled = false;
        });
        const restart = button("Restart", "Forget all variables", async () => {
          await session.kernel.restart();
          for (const cell of notebook.cells) cell.pkHasRun = false;
          say("Restarted: nothing has run yet.");
        });
        launch.replaceWith(all, restart);
        say("Ready. Edit a cell and press Shift+Enter; cells above it run first.");
        document.documentElement.dataset.live = "running";
      } catch (error) {
        launch.disabled = false;
        say(`Not started: ${error.message}.`);
      }
    });
    bar.append(launch, status);
    const heading = article.querySelector("h1");
    heading ? heading.after(bar) : article.prepend(bar);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", mount);
  else mount();
})();
