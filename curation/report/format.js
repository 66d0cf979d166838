// Numbers as people read them, and elements whose text is always only text.

const whole = new Intl.NumberFormat('en-US', {maximumFractionDigits: 0});

function count(n, noun, nouns = noun + 's') {
  return `${whole.format(n)} ${n === 1 ? noun : nouns}`;
}

// Three telling digits, no padding: 0.0612, 1.5, 48,310.
function short(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return '–';
  if (Math.abs(x) >= 1e9 || (x !== 0 && Math.abs(x) < 1e-4)) return x.toExponential(1);
  const digits = Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 10 ? 1 : Math.abs(x) >= 1 ? 2 : 3;
  return minus(new Intl.NumberFormat('en-US', {maximumFractionDigits: digits}).format(x));
}

// A threshold is shown as it was written.
function full(x) {
  const plain = Math.abs(x) < 1e9 && (x === 0 || Math.abs(x) >= 1e-4);
  return minus(plain ? new Intl.NumberFormat('en-US', {maximumFractionDigits: 6}).format(x) : String(x));
}

function minus(text) {
  return text.replace('-', '−');
}

function signed(text, x) {
  return (x > 0 ? '+' : x < 0 ? '−' : '±') + text;
}

function percent(part, all) {
  if (!all) return '0 %';
  const p = 100 * part / all;
  return `${p > 0 && p < 0.1 ? '< 0.1' : p < 10 || (p > 99 && p < 100) ? p.toFixed(1) : Math.round(p)} %`;
}

// All durations of a sentence share the unit of the longest.
function durationUnit(seconds) {
  return seconds >= 3600 ? [3600, 'h'] : seconds >= 60 ? [60, 'min'] : [1, 's'];
}

function inUnit(seconds, [size]) {
  const x = seconds / size;
  return new Intl.NumberFormat('en-US', {minimumFractionDigits: 1, maximumFractionDigits: 1}).format(x);
}

function duration(seconds) {
  const unit = durationUnit(seconds);
  return `${inUnit(seconds, unit)} ${unit[1]}`;
}

function milliseconds(ms) {
  if (Number.isNaN(ms)) return '–';
  if (ms < 1) return '< 1 ms';
  const [size, unit] = [[3.6e6, 'h'], [6e4, 'min'], [1e3, 's'], [1, 'ms']].find(([least]) => ms >= least);
  const x = ms / size, digits = x >= 100 ? 0 : x >= 10 ? 1 : 2;
  return `${new Intl.NumberFormat('en-US', {minimumFractionDigits: digits, maximumFractionDigits: digits}).format(x)} ${unit}`;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600), rest = ((tenths % 600) / 10).toFixed(1);
  return `${minutes}:${rest.padStart(4, '0')}`;
}

function baseName(source) {
  const parts = source.split(/[\\/]/).filter(Boolean);
  return parts.length ? parts[parts.length - 1] : source;
}

// For a POSIX shell.
function shellQuote(text) {
  return /^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// ---------------------------------------------------------------- elements

// el('p', {class: 'x', onclick: f}, 'text', child): strings become text nodes, never markup.
function el(tag, settings = {}, ...children) {
  return furnish(document.createElement(tag), settings, children);
}

function svg(tag, settings = {}, ...children) {
  return furnish(document.createElementNS('http://www.w3.org/2000/svg', tag), settings, children);
}

function furnish(element, settings, children) {
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

function body(section) {
  return document.querySelector(`#${section} > .body`);
}

function option(value, text) {
  return el('option', {value}, text);
}

// Names and captions may be in any script; they must not turn the line around them.
function foreign(text, settings = {}) {
  return el('bdi', {dir: 'auto', ...settings}, text);
}

function later(wait, action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}
