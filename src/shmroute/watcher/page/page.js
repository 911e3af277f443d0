// Replaces the content every two seconds while nobody types. Without scripts the browser reloads the page instead.
"use strict";
(() => {
  const pause = 2000;
  async function refresh() {
    const active = document.activeElement;
    if (!document.hidden && !(active && active.tagName === "INPUT")) {
      const state = document.getElementById("state");
      try {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(5000) });
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of document.querySelectorAll("[data-live]")) {
          const next = fresh.getElementById(part.id);
          if (next && next.innerHTML !== part.innerHTML) part.replaceChildren(...next.childNodes);
        }
      } catch (error) {
        const line = document.createElement("p");
        line.className = "state bad";
        line.textContent = `✕ bad: the watcher does not answer (${error.message})`;
        state.replaceChildren(line);
      }
    }
    setTimeout(refresh, pause);
  }
  setTimeout(refresh, pause);
})();
