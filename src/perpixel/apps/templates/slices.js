// Slice viewer: sheets of slices become volumes, and three linked planes are drawn from them. Nothing is fetched.
(() => {
  const TRUTH = [46, 230, 120], PREDICTION = [255, 70, 180], BOTH = [255, 255, 255], MAX_HEIGHT = 480;
  const viewer = document.currentScript.previousElementSibling;
  const palette = JSON.parse(viewer.dataset.palette);
  const canvases = [...viewer.querySelectorAll("canvas")], sliders = [...viewer.querySelectorAll("input[type=range]")];
  const places = [...viewer.querySelectorAll(".place")], volumes = [...viewer.querySelectorAll(".volume")];
  const layers = Object.fromEntries([...viewer.querySelectorAll("[data-layer]")].map((box) => [box.dataset.layer, box]));
  // Axes (0 depth, 1 row, 2 column) of each plane: the one it is cut along, its rows, its columns; heads are up.
  const AXES = [[0, 1, 2], [1, 0, 2], [2, 0, 1]];
  let shown = null, point = [0, 0, 0];

  const load = async (source, [depth, height, width], columns) => {
    const picture = new Image();
    picture.src = source;
    await picture.decode();
    const canvas = document.createElement("canvas");
    canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const values = new Uint8Array(depth * height * width);
    for (let z = 0, at = 0; z < depth; z++) {
      const top = Math.floor(z / columns) * height, left = (z % columns) * width;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) values[at++] = pixels[4 * ((top + y) * canvas.width + left + x)];
    }
    return values;
  };

  const open = async (number) => {
    const { dataset } = volumes[number];
    const shape = JSON.parse(dataset.shape), columns = Number(dataset.columns);
    const [image, truth, prediction] = await Promise.all(
      [dataset.image, dataset.truth, dataset.prediction].map((source) => load(source, shape, columns)));
    shown = { shape, spacing: JSON.parse(dataset.spacing), image, truth, prediction };
    point = middle(truth, shape);
    sliders.forEach((slider, plane) => { slider.max = shape[AXES[plane][0]] - 1; });
    // One scale for all planes: the widest fills its column, unless one would then be too high.
    const sides = AXES.map(([, row, column]) => [shape[row] * shown.spacing[row], shape[column] * shown.spacing[column]]);
    const widest = Math.max(...sides.map(([, wide]) => wide)), highest = Math.max(...sides.map(([high]) => high));
    const pixels = Math.min(canvases[0].parentElement.clientWidth / widest, MAX_HEIGHT / highest);
    canvases.forEach((canvas, plane) => {
      const [high, wide] = sides[plane];
      canvas.style.width = `${wide * pixels}px`; canvas.style.height = `${high * pixels}px`;
    });
    draw();
  };

  const middle = (truth, shape) => {
    const low = [...shape], high = [-1, -1, -1];
    for (let z = 0, at = 0; z < shape[0]; z++) for (let y = 0; y < shape[1]; y++) for (let x = 0; x < shape[2]; x++, at++)
      if (truth[at] > 0 && truth[at] < palette.length)
        [z, y, x].forEach((value, axis) => { low[axis] = Math.min(low[axis], value); high[axis] = Math.max(high[axis], value); });
    return shape.map((side, axis) => (high[axis] < 0 ? side >> 1 : (low[axis] + high[axis]) >> 1));
  };

  const draw = () => canvases.forEach((canvas, plane) => {
    const { shape, spacing } = shown, [cut, row, column] = AXES[plane];
    const steps = [shape[1] * shape[2], shape[2], 1];
    // Each voxel becomes a block of pixels, so that outlines are thin lines between voxels.
    const zoom = Math.max(2, Math.ceil(420 / Math.max(shape[row], shape[column])));
    const rows = shape[row], columns = shape[column], width = columns * zoom, height = rows * zoom;
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height), out = picture.data;
    const isFlipped = plane > 0;
    const index = (r, c) => point[cut] * steps[cut] + (isFlipped ? rows - 1 - r : r) * steps[row] + c * steps[column];
    const isEdge = (map, r, c, dr, dc) => {
      const other = r + dr >= 0 && r + dr < rows && c + dc >= 0 && c + dc < columns ? map[index(r + dr, c + dc)] : 0;
      return map[index(r, c)] !== other;
    };
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
      const at = index(r, c), grey = shown.image[at];
      let colour = [grey, grey, grey];
      const label = shown.prediction[at];
      if (layers.fill.checked && label > 0 && palette[label]) colour = colour.map((v, i) => 0.45 * v + 0.55 * palette[label][i]);
      const edges = [[-1, 0], [1, 0], [0, -1], [0, 1]].map(([dr, dc]) => [
        layers.truth.checked && isEdge(shown.truth, r, c, dr, dc),
        layers.prediction.checked && isEdge(shown.prediction, r, c, dr, dc)]);
      for (let y = 0; y < zoom; y++) for (let x = 0; x < zoom; x++) {
        const near = [y === 0, y === zoom - 1, x === 0, x === zoom - 1];
        const isTrue = near.some((is, i) => is && edges[i][0]), isFound = near.some((is, i) => is && edges[i][1]);
        const paint = isTrue && isFound ? BOTH : isTrue ? TRUTH : isFound ? PREDICTION : colour;
        const to = 4 * ((r * zoom + y) * width + c * zoom + x);
        out[to] = paint[0]; out[to + 1] = paint[1]; out[to + 2] = paint[2]; out[to + 3] = 255;
      }
    }
    context.putImageData(picture, 0, 0);
    const y = ((isFlipped ? rows - 1 - point[row] : point[row]) + 0.5) * zoom, x = (point[column] + 0.5) * zoom;
    context.strokeStyle = "rgba(90, 160, 255, .65)";
    context.beginPath();
    context.moveTo(0, y); context.lineTo(width, y); context.moveTo(x, 0); context.lineTo(x, height);
    context.stroke();
    sliders[plane].value = point[cut];
    places[plane].textContent = `slice ${point[cut] + 1} of ${shape[cut]}, ${spacing[cut].toPrecision(3)} mm apart`;
  });

  const move = (axis, place) => { point[axis] = Math.max(0, Math.min(shown.shape[axis] - 1, place)); draw(); };
  canvases.forEach((canvas, plane) => {
    const [cut, row, column] = AXES[plane];
    const take = (event) => {
      const box = canvas.getBoundingClientRect();
      let r = Math.floor(((event.clientY - box.top) / box.height) * shown.shape[row]);
      if (plane > 0) r = shown.shape[row] - 1 - r;
      point[row] = Math.max(0, Math.min(shown.shape[row] - 1, r));
      move(column, Math.floor(((event.clientX - box.left) / box.width) * shown.shape[column]));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); take(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) take(event); });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(cut, point[cut] + Math.sign(event.deltaY)); }, { passive: false });
    sliders[plane].addEventListener("input", () => move(cut, Number(sliders[plane].value)));
  });
  Object.values(layers).forEach((box) => box.addEventListener("change", draw));
  viewer.querySelector("select").addEventListener("change", (event) => open(Number(event.target.value)));
  open(0);
})();
