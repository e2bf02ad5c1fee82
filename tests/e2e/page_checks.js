// What test_browser.py asks of every page: `basics()` and `contrast()` list what is wrong with it.

const basics = () => {
  const wrong = [];
  const ask = (good, what) => good || wrong.push(what);
  const short = (address) => address.slice(0, 80);
  ask(document.documentElement.lang, "no language");
  ask(document.title.trim(), "no title");
  ask(document.querySelectorAll("h1").length === 1, "not one h1");
  ask(document.querySelector("main"), "no main");
  let level = 1;
  for (const heading of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
    const own = Number(heading.tagName[1]);
    ask(own <= level + 1, `${heading.tagName} below h${level}: ${heading.textContent}`);
    ask(heading.textContent.trim(), "an empty heading");
    level = own;
  }
  for (const image of document.images) {
    ask(image.alt, `no alt: ${short(image.src)}`);
    ask(!image.checkVisibility() || image.naturalWidth, `not shown: ${short(image.src)}`);
  }
  for (const svg of document.querySelectorAll("svg")) ask(svg.getAttribute("aria-label"), "a chart without a name");
  for (const input of document.querySelectorAll("input")) ask(input.labels.length, "an input without a label");
  for (const link of document.links) ask(link.textContent.trim(), `an empty link: ${short(link.href)}`);
  for (const cell of document.querySelectorAll("thead th")) ask(cell.scope || cell.closest(".card"), "a header of nothing");
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  ask(new Set(ids).size === ids.length, "an id twice");
  const root = document.documentElement;
  ask(root.scrollWidth <= root.clientWidth, `${root.scrollWidth} pixels on a screen of ${root.clientWidth}`);
  return wrong;
};

// WCAG 2: relative luminance, and the contrast of every visible text with what is behind it (4.5 at least).
const contrast = () => {
  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return numbers.length < 4 ? [...numbers, 1] : numbers;
  };
  const linear = (part) => (part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const words = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!words || !element.checkVisibility() || element.closest("svg title, style, script")) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    let paper = [0, 0, 0, 0];
    for (let under = element; under && paper[3] === 0; under = under.parentElement) {
      paper = parse(getComputedStyle(under).backgroundColor);
    }
    const [bright, dark] = [luminance(ink), luminance(paper)].sort((a, b) => b - a);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${words.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return low;
};
