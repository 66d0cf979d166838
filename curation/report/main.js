// First what needs only counts, then, once that stands, what needs the columns.

function drawCounts() {
  drawHead();
  drawFunnel();
  drawFailures();
  drawCost();
  drawSettings();
}

async function drawClips() {
  if (typeof DecompressionStream === 'undefined') throw new Error('this browser is too old to unpack the scores (2023 or later is needed)');
  await startLab();
  drawScores();
  drawGallery();
  updateBar();
  watchCard();
  document.documentElement.dataset.ready = 'yes';
}

drawCounts();
setTimeout(() => drawClips().catch(error => {
  body('lab').append(el('p', {class: 'note'}, `The scores can't be shown: ${error.message}`));
  throw error;
}), 0);
