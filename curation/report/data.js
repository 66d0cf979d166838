// Reads the data blocks of the page. Columns are unpacked when they are first asked for.

const KEPT = -1, UNDECIDED = -2, UNJUDGED = -3;
const MEASURED = 0, FAILED = 1;

const facts = JSON.parse(document.getElementById('facts').textContent);
const packed = {columns: null, pictures: null};
const unpacked = new Map();

// The big blocks are parsed after the first picture of the page stands.
function block(name) {
  packed[name] ??= JSON.parse(document.getElementById(name).textContent);
  return packed[name];
}

async function inflate(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// float32 lie as four byte planes.
async function floats(base64) {
  const planes = await inflate(base64);
  const n = planes.length / 4;
  const bytes = new Uint8Array(planes.length);
  for (let k = 0; k < 4; k++) for (let i = 0, p = k * n; i < n; i++) bytes[4 * i + k] = planes[p + i];
  return new Float32Array(bytes.buffer);
}

function once(key, make) {
  if (!unpacked.has(key)) unpacked.set(key, make());
  return unpacked.get(key);
}

// score('faces.visible') -> values, NaN where there is none. Null where no clip has the column.
function scoreColumn(key) {
  const base64 = block('columns').scores[key];
  return once('score ' + key, () => (base64 ? floats(base64) : Promise.resolve(null)));
}

function numberColumn(group, name) {
  return once(group + ' ' + name, () => floats(block('columns')[group][name]));
}

// What nearly everything needs: spans, states, which filter ran on which clip, ids and sources.
async function loadBasics() {
  const columns = block('columns');
  const names = Object.keys(columns.measured);
  const [state, start, seconds, text, ...masks] = await Promise.all([
    inflate(columns.state), floats(columns.start), floats(columns.seconds), inflate(columns.text),
    ...names.map(name => inflate(columns.measured[name])),
  ]);
  const strings = JSON.parse(new TextDecoder().decode(text));
  return {state, start, seconds, ...strings, measured: new Map(names.map((name, i) => [name, masks[i]]))};
}

// A picture as a data address, or null. Only what begins like a JPEG is shown.
function picture(row) {
  const base64 = block('pictures')[row];
  return base64 && base64.startsWith('/9j/') ? 'data:image/jpeg;base64,' + base64 : null;
}
