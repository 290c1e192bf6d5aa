'use strict';
// Everything comes from the JSON above; text goes in by textContent alone, so that no name of a file or class is markup.
const data = JSON.parse(document.getElementById('data').textContent);
const by = id => document.getElementById(id);
const BATCH = 48;
const single = data.photos.length === 1;
const state = { method: data.methods.length ? data.methods[0].name : 'photo', opacity: data.look.opacity, shown: [], built: 0 };
const cards = new Map();

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'on') for (const [event, action] of Object.entries(value)) element.addEventListener(event, action);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function pressed(group, chosen) {
  for (const button of group.children) button.setAttribute('aria-pressed', String(button.dataset.value === chosen));
}

function picture(source) {
  return new Promise(resolve => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });
}

function pixelsOf(image, width, height) {
  const canvas = make('canvas', { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

// -- drawing ---------------------------------------------------------------------------------------------------------

// (1 - a) photo + a colour, as portable_cam/image/colormap.py has it; red is the value, green where it is no number
function blend(base, values) {
  const { palette, rising, gray } = data.look, opacity = state.opacity, to = base.data, from = values.data;
  for (let i = 0; i < to.length; i += 4) {
    const missing = from[i + 1] > 127, step = missing ? 256 : from[i];
    const a = missing ? Math.max(opacity, 0.5) : opacity * (rising ? step / 255 : 1);
    const luma = (19595 * to[i] + 38470 * to[i + 1] + 7471 * to[i + 2] + 0x8000) >> 16;
    for (let c = 0; c < 3; c++) to[i + c] = Math.round((1 - a) * (gray ? luma : to[i + c]) + a * palette[3 * step + c]);
  }
  return base;
}

// a line, white between dark, where the map passes a level
function contours(base, values) {
  const { width, height } = values, from = values.data, to = base.data, level = data.look.contours.map(value => 255 * value);
  const thick = Math.max(1, Math.round(Math.max(width, height) / 450)), edges = [];
  for (let y = 0; y < height - 1; y++) for (let x = 0; x < width - 1; x++) {
    const at = 4 * (y * width + x), here = from[at], right = from[at + 4], below = from[at + 4 * width];
    if (level.some(value => (here >= value) !== (right >= value) || (here >= value) !== (below >= value))) edges.push([x, y]);
  }
  for (const [reach, ink] of [[thick + 1, 25], [thick - 1, 255]]) for (const [x, y] of edges) {
    for (let v = Math.max(0, y - reach); v <= Math.min(height - 1, y + reach); v++) for (let u = Math.max(0, x - reach); u <= Math.min(width - 1, x + reach); u++) {
      const at = 4 * (v * width + u);
      to[at] = to[at + 1] = to[at + 2] = ink;
    }
  }
  return base;
}

function hatch(context, width, height, seen) {
  const thick = Math.max(1, Math.round(Math.max(width, height) / 450));
  const [x0, y0, x1, y1] = [seen[0] * width, seen[1] * height, seen[2] * width, seen[3] * height];
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.clip('evenodd');
  context.lineWidth = thick;
  for (let start = -height; start < width; start += 11 * thick) {
    for (const [offset, ink] of [[0, 'rgba(255,255,255,.59)'], [thick, 'rgba(40,40,40,.59)']]) {
      context.strokeStyle = ink;
      context.beginPath();
      context.moveTo(start + offset, height);
      context.lineTo(start + offset + height, 0);
      context.stroke();
    }
  }
  context.restore();
  context.lineWidth = 2 * thick;
  context.strokeStyle = '#fff';
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

async function draw(card) {
  const { photo, canvas } = card, turn = ++card.turn;
  const target = photo.targets[card.k];
  const map = state.method === 'photo' ? null : target.maps[state.method] || null;
  const image = await picture(photo.image);
  const layer = map ? await picture(map.image) : null;
  const marks = target.marks ? await picture(target.marks) : null;
  if (turn !== card.turn || !card.visible || !image) return;
  const width = image.naturalWidth, height = image.naturalHeight;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  card.values = null;
  if (map && map.signed) {
    context.drawImage(layer, 0, 0, width, height);
    card.values = pixelsOf(layer, width, height);
  } else if (map) {
    card.values = pixelsOf(layer, width, height);
    context.putImageData(contours(blend(pixelsOf(image, width, height), card.values), card.values), 0, 0);
  } else {
    context.drawImage(image, 0, 0, width, height);
  }
  if (map && photo.seen) hatch(context, width, height, photo.seen);
  if (marks && !(map && map.signed)) context.drawImage(marks, 0, 0, width, height);
}

function hover(card, event) {
  const { photo, canvas } = card, box = canvas.getBoundingClientRect();
  const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
  if (u < 0 || v < 0 || u >= 1 || v >= 1) return;
  const place = `pixel ${Math.floor(u * photo.size[0])}, ${Math.floor(v * photo.size[1])}`;
  const outside = photo.seen && (u < photo.seen[0] || v < photo.seen[1] || u >= photo.seen[2] || v >= photo.seen[3]);
  let said = '';
  if (outside) said = `: ${data.unseen}`;
  else if (card.values) {
    const at = 4 * (Math.floor(v * card.values.height) * card.values.width + Math.floor(u * card.values.width)), rgb = card.values.data;
    const map = photo.targets[card.k].maps[state.method];
    if (map.signed) said = ': ' + [0, 1, 2].map(c => ((rgb[at + c] - 127.5) / 127.5).toFixed(2)).join(', ') + ' of the most, red, green, blue';
    else said = rgb[at + 1] > 127 ? ': not a number' : `: ${(rgb[at] / 255).toFixed(2)} of the most`;
  }
  card.tip.textContent = place + said;
}

// -- cards -----------------------------------------------------------------------------------------------------------

function table(rows) {
  return make('table', {}, ...rows.map(([name, value]) => make('tr', {}, make('th', { scope: 'row' }, String(name)), make('td', {}, String(value)))));
}

function words(target, reach) {
  if (!target.words.length) return null;
  const rows = target.words.flatMap(([word, value]) => {
    const share = value === null ? 0 : Math.max(-1, Math.min(1, value / reach)), bar = make('i', {});
    bar.style.cssText = `left:${share < 0 ? 50 + 50 * share : 50}%;width:${50 * Math.abs(share)}%;background:var(--${share < 0 ? 'against' : 'for'})`;
    const text = value === null ? 'not a number' : value.toPrecision(3);
    return [make('span', {}, word), make('span', { class: 'axis', title: text }, bar), make('span', {}, text)];
  });
  const ends = make('span', { class: 'from' }, ...[-reach, 0, reach].map(at => make('span', {}, at ? at.toPrecision(2) : '0')));
  return make('div', { class: 'words' }, ...rows, make('span', {}), ends, make('span', {}));
}

function show(card) {
  const { photo } = card, target = photo.targets[card.k];
  const map = target.maps[state.method];
  pressed(card.targets, String(card.k));
  card.note.replaceChildren(make('b', {}, target.title), ` ${target.note}`, ...target.flags.map(flag => make('span', { class: 'flag' }, flag)), map && map.remark ? ` (${map.remark})` : '');
  card.words.replaceChildren(...[words(target, photo.reach)].filter(Boolean));
  card.canvas.setAttribute('aria-label', `${photo.name}: ${target.title}, ${state.method}`);
  if (card.visible) draw(card);
}

function build(photo) {
  const canvas = make('canvas', { role: 'img', width: 1, height: 1 });
  const tip = make('output', { class: 'tip' });
  const card = { photo, canvas, tip, k: 0, turn: 0, visible: false, note: make('p', { class: 'note' }), words: make('div', {}) };
  canvas.style.aspectRatio = `${photo.drawn[0]} / ${photo.drawn[1]}`;
  canvas.addEventListener('mousemove', event => hover(card, event));
  card.targets = make('div', { class: 'targets', role: 'group', 'aria-label': 'target' }, ...photo.targets.map((target, k) =>
    make('button', { type: 'button', 'data-value': k, title: table_text(target.numbers), on: { click: () => { card.k = k; show(card); } } }, target.title)));
  card.targets.hidden = photo.targets.length < 2;
  const numbers = make('details', single ? { open: '' } : {}, make('summary', {}, 'numbers and preprocessing'),
    ...(photo.top.length ? [make('p', {}, `the model's top classes: ${photo.top_is}`), table(photo.top)] : []),
    ...photo.targets.map(target => table(target.numbers)), table(photo.facts),
    photo.notes.length ? make('ul', { class: 'notes' }, ...photo.notes.map(note => make('li', {}, note))) : null);
  card.element = make('article', { class: 'card' },
    make('h2', {}, photo.name, make('small', {}, `${photo.size[0]} × ${photo.size[1]}`)),
    photo.said ? make('p', { class: 'said' }, photo.said) : null,
    make('div', { class: 'stage' }, canvas, tip), card.targets, card.note, card.words, numbers);
  card.element.card = card;
  return card;
}

function table_text(rows) {
  return rows.map(([name, value]) => `${name}: ${value}`).join('\n');
}

const watcher = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const card = target.card;
    if (isIntersecting === card.visible) continue;
    card.visible = isIntersecting;
    if (isIntersecting) draw(card);
    else { card.turn++; card.values = null; card.canvas.width = card.canvas.height = 1; }  // thousands would fill the memory
  }
}, { rootMargin: '600px' });

function more() {
  const next = state.shown.slice(state.built, state.built + BATCH);
  for (const photo of next) {
    if (!cards.has(photo)) cards.set(photo, build(photo));
    const card = cards.get(photo), wanted = by('class').value;
    if (wanted) card.k = Math.max(0, photo.targets.findIndex(target => target.name === wanted));
    by('cards').append(card.element);
    watcher.observe(card.element);
    show(card);
  }
  state.built += next.length;
}

new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && state.built < state.shown.length) more(); }, { rootMargin: '1200px' }).observe(by('more'));

// -- tools -----------------------------------------------------------------------------------------------------------

const SORTS = { 'as given': null, name: null, score: 'score', probability: 'probability', detection: 'detection', 'share of the picture': 'share' };

function numberOf(photo, key, wanted) {
  const values = photo.targets.filter(target => !wanted || target.name === wanted).map(target => target[key]).filter(value => typeof value === 'number');
  return values.length ? Math.max(...values) : -Infinity;
}

function arrange() {
  const text = by('find').value.toLowerCase(), wanted = by('class').value, flag = by('flag').value, sort = by('sort').value;
  const fits = photo => (!text || photo.name.toLowerCase().includes(text) || photo.targets.some(target => target.title.toLowerCase().includes(text)))
    && (!wanted || photo.targets.some(target => target.name === wanted))
    && (!flag || (flag === 'none' ? photo.targets.every(target => !target.flags.length) : photo.targets.some(target => target.flags.includes(flag))));
  const [way, upwards] = sort.split('|'), key = SORTS[way], least = by('least').value;
  by('atleast').hidden = !key;
  state.shown = data.photos.filter(photo => fits(photo) && (!key || least === '' || numberOf(photo, key, wanted) >= Number(least)));
  if (way === 'name') state.shown.sort((a, b) => a.name.localeCompare(b.name));
  if (key) state.shown.sort((a, b) => (upwards ? -1 : 1) * (numberOf(b, key, wanted) - numberOf(a, key, wanted)) || 0);
  for (const element of by('cards').children) { watcher.unobserve(element); element.card.visible = false; }
  by('cards').replaceChildren();
  state.built = 0;
  by('count').textContent = single ? '' : `${state.shown.length} of ${data.photos.length} photos`;
  more();
}

function key() {
  by('keys').replaceChildren(...data.keys.map(item => {
    if (!item.ticks.length) return make('div', { class: 'key sample' }, make('img', { src: item.image, alt: '' }), item.caption);
    let scale;
    if (item.drawn) {
      scale = make('canvas', { width: 256, height: 1 });
      const context = scale.getContext('2d'), base = context.createImageData(256, 1), values = context.createImageData(256, 1);
      for (let i = 0; i < 256; i++) { base.data.set([128, 128, 128, 255], 4 * i); values.data.set([i, 0, 0, 255], 4 * i); }
      context.putImageData(blend(base, values), 0, 0);
    } else scale = make('img', { src: item.image, alt: '' });
    const ticks = make('div', { class: 'ticks' }, ...item.ticks.map(([at, text]) => { const tick = make('span', {}, text); tick.style.left = `${100 * at}%`; return tick; }));
    return make('div', { class: 'key' }, item.caption, scale, ticks);
  }));
}

function redraw() {
  for (const element of by('cards').children) show(element.card);
}

function start() {
  if (single) { by('cards').className = 'single'; for (const label of document.querySelectorAll('.many')) label.hidden = true; }
  const every = data.photos.flatMap(photo => photo.targets);
  for (const name of [...new Set(every.map(target => target.name))].sort()) by('class').append(make('option', { value: name }, name));
  for (const flag of [...new Set(every.flatMap(target => target.flags))].sort()) by('flag').append(make('option', { value: flag }, flag));
  by('flag').append(make('option', { value: 'none' }, 'none'));
  for (const [way, field] of Object.entries(SORTS)) {
    if (field && !every.some(target => typeof target[field] === 'number')) continue;
    by('sort').append(make('option', { value: way }, field ? `${way}, highest first` : way));
    if (field) by('sort').append(make('option', { value: `${way}|up` }, `${way}, lowest first`));
  }
  const choices = [{ name: 'photo', title: 'photo' }, ...data.methods];
  by('methods').append(...choices.map(({ name, title }) => make('button', { type: 'button', 'data-value': name, on: { click: () => { state.method = name; pressed(by('methods'), name); redraw(); } } }, title)));
  pressed(by('methods'), state.method);
  by('opacity').value = Math.round(100 * state.opacity);
  by('percent').textContent = `${by('opacity').value} %`;
  by('opacity').addEventListener('input', () => { state.opacity = by('opacity').value / 100; by('percent').textContent = `${by('opacity').value} %`; key(); redraw(); });
  for (const id of ['find', 'class', 'flag', 'sort', 'least']) by(id).addEventListener('input', arrange);
  by('tools').addEventListener('submit', event => event.preventDefault());
  addEventListener('beforeprint', () => {
    for (const element of by('cards').children) { element.card.visible = true; draw(element.card); for (const part of element.querySelectorAll('details')) { part.dataset.was = part.open; part.open = true; } }
  });
  addEventListener('afterprint', () => { for (const part of document.querySelectorAll('.card details')) part.open = part.dataset.was === 'true'; });
  key();
  arrange();
}
start();
