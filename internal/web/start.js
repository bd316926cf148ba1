// Begins what a page is made of. Where a server goes away in that moment, one of its parts may not arrive, and without it
// nothing runs and nothing says so: then the page begins anew.

const KEY = "chat-sync.starts"; // how often it did so, one after the other
const PATIENCE = 15_000; // ms for all parts, and twice as long every time: the line may be that slow
const PAUSE = 1_000; // ms before it begins anew, and twice as long every time
const LONGEST = 300_000;

const times = known();
const longer = (first) => Math.min(first * 2 ** times, LONGEST);
const late = setTimeout(anew, longer(PATIENCE));
import(new URL(import.meta.url).search.slice(1)).then(
  () => {
    clearTimeout(late);
    note(0);
  },
  (error) => {
    console.error(error);
    clearTimeout(late);
    setTimeout(anew, longer(PAUSE));
  },
);

function anew() {
  note(times + 1);
  location.reload();
}

function known() {
  try {
    return Number(sessionStorage.getItem(KEY)) || 0;
  } catch {
    return 6; // without storage it is a minute every time
  }
}

function note(count) {
  try {
    sessionStorage.setItem(KEY, count);
  } catch {
    // Without storage there is nothing.
  }
}
