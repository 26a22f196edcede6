// Filter and sort. The page is whole without this script: it only shows the controls, which are hidden until then,
// hides and orders what is there, and opens what a link leads to.
"use strict";
(() => {
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /** Order two keys: numbers by size, words by the alphabet, missing ones last whatever the direction. */
  function order(left, right, sign) {
    if (left === "" || right === "") return (left === "") - (right === "");
    const numbers = [Number(left), Number(right)];
    if (!numbers.some(Number.isNaN)) return sign * (numbers[0] - numbers[1]);
    return sign * words.compare(left, right);
  }

  /** Put elements of one parent into the order of their keys; equal ones stay as they are. */
  function arrange(elements, key, sign) {
    [...elements].sort((a, b) => order(key(a), key(b), sign)).forEach((one) => one.parentElement.append(one));
  }

  /** Buttons in the heads of a table's columns; `data-key` of a cell is what it is sorted by. */
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.hidden = false;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        arrange(table.tBodies[0].rows, (row) => row.cells[column].dataset.key ?? "", down ? -1 : 1);
      });
    });
  }

  /** A form whose fields say which of the elements of its kind are seen, and in what order. */
  function choosable(form) {
    const items = [...document.querySelectorAll(`[data-item="${form.dataset.items}"]`)];
    const status = form.querySelector("[role=status]");
    const { search, is, sort } = form.elements;
    const choose = () => {
      const wanted = search.value.trim().toLowerCase();
      const seen = new Set();
      for (const item of items) {
        const found = item.dataset.text.toLowerCase().includes(wanted) && ["", item.dataset.is].includes(is?.value ?? "");
        item.hidden = !found;
        if (found) seen.add(item.dataset.id);
      }
      const all = new Set(items.map((item) => item.dataset.id)).size;
      status.textContent = `${seen.size} of ${all} ${form.dataset.items} shown`;
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", choose);
    form.addEventListener("reset", () => setTimeout(choose));
    sort?.addEventListener("change", () => arrange(items, (item) => item.dataset[sort.value], 1));
    choose();
  }

  /** Show and open what the address leads to. */
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.closest("[hidden]")) {
      document.querySelectorAll("form[data-items]").forEach((form) => form.reset());
      setTimeout(() => target.scrollIntoView());
    }
    if (target.tagName === "DETAILS") target.open = true;
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll("form[data-items]").forEach(choosable);
  addEventListener("hashchange", reveal);
  reveal();
})();
