// Fetches the page anew every few seconds and puts the new <main> in the place of the old one.
// Not while it is hidden, while something in it is being filled in, or is unfolded and read.
"use strict";
(function () {
  const EVERY = 5000;
  function busy() {
    const main = document.querySelector("main");
    const active = document.activeElement;
    return document.hidden || !main || !main.hasAttribute("data-refresh") || !!main.querySelector("details[open]")
      || (active && main.contains(active) && active !== main)
      || Array.from(main.querySelectorAll("input")).some((i) => (i.type === "checkbox" ? i.checked : i.type !== "hidden" && i.value !== i.defaultValue));
  }
  async function refresh() {
    if (busy()) return;
    let answer;
    try {
      answer = await fetch(location.href, { headers: { "accept": "text/html" }, redirect: "error" });
    } catch (error) {
      return;
    }
    if (!answer.ok || busy()) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    const main = document.querySelector("main");
    if (found && main && !busy()) main.replaceWith(found);
  }
  setInterval(refresh, EVERY);
})();
