// Fetches the page anew every few seconds and puts the new <main> in the place of the old one.
// Not while it is hidden, while something in it is being filled in, or is unfolded and read.
// Where that fails for a while the page says so; where nobody is logged in any more it goes to the login.
"use strict";
(function () {
  const EVERY = 5000, PATIENCE = 15000;
  let asking = false, renewed = Date.now();
  function isFilled(field) {
    return field.type === "checkbox" ? field.checked : field.type !== "hidden" && field.value !== field.defaultValue;
  }
  function isChosen(select) {
    const first = select.querySelector("option[selected]") || select.options[0];
    return select.selectedOptions[0] !== first;
  }
  function busy() {
    const main = document.querySelector("main");
    const active = document.activeElement;
    return document.hidden || !main || !main.hasAttribute("data-refresh") || !!main.querySelector("details[open]")
      || (active && active !== main && main.contains(active) && active.matches("select, :focus-visible"))
      || Array.from(main.querySelectorAll("input")).some(isFilled)
      || Array.from(main.querySelectorAll("select")).some(isChosen);
  }
  function tell(failed) {
    const note = document.getElementById("stale");
    if (!failed) renewed = Date.now();
    note.hidden = !failed || Date.now() - renewed < PATIENCE;
    if (!note.hidden) note.textContent = "Not renewed since " + new Date(renewed).toISOString().slice(11, 19) + " UTC: what is shown may be out of date.";
  }
  async function refresh() {
    if (asking || busy()) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { "accept": "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect") { location.reload(); return; }
      const found = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      tell(!found);
      if (found && !busy()) document.querySelector("main").replaceWith(found);
    } catch (error) {
      tell(true);
    } finally {
      asking = false;
    }
  }
  setInterval(refresh, EVERY);
})();
