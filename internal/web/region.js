// Which region serves this page: the one that it came from, as long as that answers.

import { byId, element } from "./page.js";

const PATIENCE = 3000; // ms

let regions = [{ name: null, url: location.origin }];
let at = 0;

/** Learns where else it may go. Without an answer there is this region alone, until another connection asks again. */
export async function learn() {
  if (regions.length > 1) return;
  try {
    const response = await ask("/api/regions", { signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) return;
    const { region, regions: all } = await response.json();
    // The page's own may be reached by another address than the others know.
    const own = { name: region, url: location.origin };
    regions = [own, ...all.filter(({ name }) => name !== region)];
    draw();
  } catch {
    // Offline, or a server of before.
  }
}

/** Where the one is that serves this page. */
export const where = () => regions[at].url;

/** How many there are. */
export const count = () => regions.length;

export const url = (path) => new URL(path, regions[at].url);

/** The next one serves from now on. */
export function moveOn() {
  at = (at + 1) % regions.length;
  draw();
}

/** Begins anew, where it is served from. */
export function reload() {
  if (at === 0) location.reload();
  else location.replace(url(location.pathname + location.hash));
}

/** Asks the region that serves this page; with what shows who looks, for another one is another site. */
export const ask = (path, init = {}) => fetch(url(path), { credentials: "include", ...init });

/** The same question to every region; gives the answer of the one that serves this page. */
export async function askAll(path, init) {
  await learn();
  const others = regions.filter((_, index) => index !== at);
  const told = others.map(({ url }) =>
    fetch(new URL(path, url), { credentials: "include", signal: AbortSignal.timeout(PATIENCE), ...init }).catch(() => {}));
  const answer = await ask(path, init);
  // Whoever begins anew before they have answered may not be known there.
  if (answer.ok) await Promise.all(told);
  return answer;
}

function draw() {
  const place = byId("region");
  if (!place) return;
  place.hidden = regions.length < 2;
  place.replaceChildren(element("span", { className: "word", textContent: "region " }), regions[at].name ?? "");
  place.title = at === 0
    ? `Region ${regions[at].name} serves this page; where it falls silent, another one does.`
    : `This page came from region ${regions[0].name}, which does not answer; region ${regions[at].name} serves it.`;
}
