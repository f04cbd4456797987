"use strict";
/* The viewer of a scan and its masks: NiiVue draws, this connects it with the controls that stand in the page.

   Volumes come with their axes along right, anterior and superior, so that a voxel (i, j, k) of the file is the voxel
   (i, j, k) of NiiVue; millimetres are computed here from the affine, in double precision. A browser keeps few WebGL
   contexts, so that one viewer is open at a time. */
(() => {
  const MULTIPLANAR = 3;
  const DRAG = { pan: 3, crosshair: 8, windowing: 9 };
  const FAINT = 0.004; // of an outlined mask's inside: NiiVue draws no outline of what is invisible
  const viewers = [];
  let opened = null;

  for (const root of document.querySelectorAll("[data-viewer]")) {
    const viewer = { root, isReady: false, error: "", turn: 0 }; // turn: how often it was opened or closed
    viewers.push(viewer);
    const button = root.querySelector(".viewer-open");
    button?.addEventListener("click", () => (opened === viewer ? close(viewer) : open(viewer)));
    if (root.hasAttribute("data-open")) open(viewer);
  }
  window.medunetViewers = viewers; // for tests and for the console

  function open(viewer) {
    if (opened) close(opened);
    opened = viewer;
    const body = viewer.root.querySelector(".viewer-body");
    viewer.template ??= body.cloneNode(true);
    body.hidden = false;
    viewer.root.querySelector(".viewer-open")?.setAttribute("aria-expanded", "true");
    viewer.turn += 1;
    const { turn } = viewer;
    start(viewer, turn).catch((error) => turn === viewer.turn && fail(viewer, error));
  }

  function close(viewer) {
    viewer.turn += 1;
    release(viewer.nv);
    // A canvas whose context is lost is of no further use, and a fresh copy has no listeners.
    viewer.root.querySelector(".viewer-body").replaceWith(viewer.template.cloneNode(true));
    viewer.root.querySelector(".viewer-open")?.setAttribute("aria-expanded", "false");
    Object.assign(viewer, { nv: null, isReady: false });
    opened = null;
  }

  /* Gives the graphics card back what it held; again where it was done before attaching had ended. */
  function release(nv) {
    if (!nv?.gl || nv.isReleased) return;
    nv.isReleased = true;
    nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    nv.cleanup();
  }

  function fail(viewer, error) {
    const message = viewer.root.querySelector(".viewer-message");
    message.classList.add("bad");
    message.textContent = `The scan cannot be shown: ${error.message || error}`;
    viewer.error = message.textContent;
  }

  async function start(viewer, turn) {
    const { root } = viewer;
    const canvas = root.querySelector("canvas");
    const probe = document.createElement("canvas").getContext("webgl2");
    probe?.getExtension("WEBGL_lose_context")?.loseContext();
    if (!probe) {
      throw new Error("this browser has no WebGL 2. Allow hardware acceleration, or open the page in another browser.");
    }
    // Let the browser paint the message before a large scan is decoded.
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const facts = JSON.parse(read(root, "facts"));
    const scan = await unpack(read(root, "scan"));
    const masks = [];
    for (const index of facts.masks.keys()) masks.push(await unpack(read(root, `mask-${index}`)));
    if (viewer.turn !== turn) return; // closed meanwhile

    const lineMm = measureLine(facts);
    const nv = new niivue.Niivue({
      logLevel: "error",
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.55, 0.85, 0.95, 1],
      crosshairWidthUnit: "mm",
      crosshairWidth: lineMm,
      fontColor: [0.92, 0.93, 0.95, 1],
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      isForceMouseClickToVoxelCenters: true,
      multiplanarShowRender: 0,
      isColorbar: false,
      dragAndDropEnabled: false,
      sliceType: MULTIPLANAR,
      tileMargin: 12,
      mouseEventConfig: {
        leftButton: { primary: DRAG.crosshair, withShift: DRAG.windowing, withCtrl: DRAG.pan },
        rightButton: DRAG.windowing,
        centerButton: DRAG.pan,
      },
    });
    Object.assign(viewer, { nv, facts });
    await nv.attachToCanvas(canvas);
    if (viewer.turn === turn) await load(viewer, scan, masks);
    if (viewer.turn !== turn) {
      release(nv);
      return;
    }
    connect(viewer);
    goToVoxel(viewer, facts.start);
    root.querySelector(".viewer-message").textContent = "";
    viewer.isReady = true;
  }

  /* ---- volumes ---- */

  function read(root, part) {
    return root.querySelector(`script[data-part="${part}"]`).textContent;
  }

  async function unpack(text) {
    const letters = atob(text.trim());
    const packed = new Uint8Array(letters.length);
    for (let place = 0; place < letters.length; place++) packed[place] = letters.charCodeAt(place);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return await new Response(stream).arrayBuffer();
  }

  async function load(viewer, scan, masks) {
    const { nv, facts } = viewer;
    const window0 = facts.windows[0];
    const volume = await niivue.NVImage.new(scan, "scan.nii", "gray", 1, null, window0.low, window0.high);
    nv.addVolume(volume);
    viewer.masks = facts.masks.map((mask) => ({ ...mask, isShown: true, opacity: 1 }));
    viewer.hidden = new Set(); // labels
    for (const [index, mask] of viewer.masks.entries()) {
      const image = await niivue.NVImage.new(masks[index], `${mask.role}.nii`, "gray", 0);
      mask.codes = image.img;
      if (mask.role === "prediction") {
        mask.image = image;
        image.setColormapLabel(makeColours(viewer, mask));
        nv.addVolume(image);
      } else {
        nv.drawOpacity = FAINT;
        nv.loadDrawing(image);
        nv.opts.drawingEnabled = false;
      }
    }
  }

  /* A voxel has the colour of its smallest label that is shown. */
  function makeColours(viewer, mask) {
    const colours = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const [place, members] of mask.members.entries()) {
      const shown = members.find((label) => !viewer.hidden.has(label));
      const code = shown === undefined ? "#000000" : viewer.facts.labels[shown].colour;
      colours.R.push(parseInt(code.slice(1, 3), 16));
      colours.G.push(parseInt(code.slice(3, 5), 16));
      colours.B.push(parseInt(code.slice(5, 7), 16));
      colours.A.push(shown === undefined ? 0 : 255);
      colours.I.push(place + 1);
      colours.labels.push("");
    }
    return colours;
  }

  function refreshMasks(viewer) {
    const { nv } = viewer;
    for (const mask of viewer.masks) {
      const opacity = mask.isShown ? mask.opacity : 0;
      if (mask.role === "prediction") {
        mask.image.setColormapLabel(makeColours(viewer, mask));
        mask.image.opacity = opacity;
        nv.refreshLayers(mask.image, 1); // the scan stays in the graphics card
        nv.opts.isNearestInterpolation = true; // a mask has no values between its voxels, the scan has
        nv.updateInterpolation(1);
        nv.opts.isNearestInterpolation = false;
      } else {
        nv.drawLut = niivue.cmapper.makeDrawLut(makeColours(viewer, mask));
        nv.drawOpacity = opacity > 0 ? FAINT : 0;
        nv.drawRimOpacity = opacity;
        nv.refreshColormaps();
      }
    }
    nv.drawScene();
  }

  /* ---- controls ---- */

  function connect(viewer) {
    const { root, nv, facts } = viewer;
    const all = (selector) => [...root.querySelectorAll(selector)];
    const [windows] = all(".viewer-window");
    const [planes] = all(".viewer-planes");
    let isDue = false;
    const update = () => {
      for (const field of all("[data-mask]")) {
        const mask = viewer.masks[Number(field.dataset.mask)];
        mask.isShown = field.querySelector(".viewer-mask").checked;
        mask.opacity = Number(field.querySelector(".viewer-opacity").value) / 100;
      }
      viewer.hidden = new Set(all(".viewer-label").filter((box) => !box.checked).map((box) => Number(box.value)));
      if (isDue) return;
      isDue = true; // a slider tells of more steps than can be drawn
      requestAnimationFrame(() => {
        isDue = false;
        if (viewer.nv) refreshMasks(viewer);
      });
    };
    const setWindow = () => {
      const { low, high } = facts.windows[Number(windows.value)];
      Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
      nv.refreshLayers(nv.volumes[0], 0);
      nv.drawScene();
    };
    const setLabels = (isShown) => {
      for (const box of all(".viewer-label")) box.checked = isShown;
      update();
    };
    const next = (select) => {
      select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
      select.dispatchEvent(new Event("change"));
    };
    const toggle = (index) => all(".viewer-mask")[index]?.click();
    const fade = (step) => {
      for (const slider of all(".viewer-opacity")) slider.value = Number(slider.value) + step;
      update();
    };
    for (const input of all(".viewer-mask, .viewer-opacity, .viewer-label")) input.addEventListener("input", update);
    root.querySelector(".viewer-all")?.addEventListener("click", () => setLabels(true));
    root.querySelector(".viewer-none")?.addEventListener("click", () => setLabels(false));
    windows.addEventListener("change", setWindow);
    planes.addEventListener("change", () => nv.setSliceType(Number(planes.value)));

    // On screen the patient's right is on the left.
    const keys = {
      ArrowLeft: () => move(viewer, [1, 0, 0]),
      ArrowRight: () => move(viewer, [-1, 0, 0]),
      ArrowUp: () => move(viewer, [0, 1, 0]),
      ArrowDown: () => move(viewer, [0, -1, 0]),
      PageUp: () => move(viewer, [0, 0, 1]),
      PageDown: () => move(viewer, [0, 0, -1]),
      "+": () => zoom(viewer, 1.25),
      "=": () => zoom(viewer, 1.25),
      "-": () => zoom(viewer, 0.8),
      0: () => zoom(viewer, 0),
      1: () => toggle(0),
      2: () => toggle(1),
      "[": () => fade(-10),
      "]": () => fade(10),
      w: () => next(windows),
      v: () => next(planes),
    };
    const stage = root.querySelector(".viewer-stage");
    // Before NiiVue's own keys, which differ and one of which opens an alert.
    const listen = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
      event.stopPropagation();
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (event.type === "keydown" && act) {
        event.preventDefault();
        act();
      }
    };
    for (const type of ["keydown", "keyup"]) stage.addEventListener(type, listen, true);
    nv.onLocationChange = () => showPlace(viewer);
    viewer.goTo = (mm) => goToVoxel(viewer, toVoxel(facts.affine, mm));
    update();
  }

  /* About a pixel where three planes stand side by side. */
  function measureLine({ shape, affine }) {
    const extents = shape.map((size, axis) => size * Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]));
    return Math.max(...extents) / 350;
  }

  function zoom(viewer, factor) {
    const { nv } = viewer;
    const [x, y, z, before] = nv.scene.pan2Dxyzmm;
    const after = factor === 0 ? 1 : Math.min(20, Math.max(1, before * factor));
    const centre = nv.frac2mm(nv.scene.crosshairPos);
    const change = before - after; // the crosshair stays where it is
    nv.opts.crosshairWidth = measureLine(viewer.facts) / after;
    if (nv.crosshairs3D) nv.crosshairs3D.mm[0] = NaN; // made anew
    nv.scene.pan2Dxyzmm =
      after === 1 ? [0, 0, 0, 1] : [x + change * centre[0], y + change * centre[1], z + change * centre[2], after];
    nv.drawScene();
  }

  /* ---- places ---- */

  function getVoxel(viewer) {
    const { shape } = viewer.facts;
    return shape.map((size, axis) => Math.min(size - 1, Math.max(0, Math.floor(viewer.nv.scene.crosshairPos[axis] * size))));
  }

  function goToVoxel(viewer, voxel) {
    const { shape } = viewer.facts;
    const inside = voxel.map((index, axis) => Math.min(shape[axis] - 1, Math.max(0, Math.round(index))));
    viewer.nv.scene.crosshairPos = inside.map((index, axis) => (index + 0.5) / shape[axis]);
    viewer.nv.drawScene();
    showPlace(viewer);
  }

  function move(viewer, step) {
    goToVoxel(viewer, getVoxel(viewer).map((index, axis) => index + step[axis]));
  }

  function toMm(affine, voxel) {
    return affine.slice(0, 3).map((row) => row[3] + row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2]);
  }

  /* Cramer's rule. */
  function toVoxel(affine, mm) {
    const column = (axis) => affine.slice(0, 3).map((row) => row[axis]);
    const [a, b, c] = [column(0), column(1), column(2)];
    const d = mm.map((value, axis) => value - affine[axis][3]);
    const determinant = (u, v, w) =>
      u[0] * (v[1] * w[2] - v[2] * w[1]) - v[0] * (u[1] * w[2] - u[2] * w[1]) + w[0] * (u[1] * v[2] - u[2] * v[1]);
    const whole = determinant(a, b, c);
    return [determinant(d, b, c) / whole, determinant(a, d, c) / whole, determinant(a, b, d) / whole];
  }

  function showPlace(viewer) {
    const { nv, facts } = viewer;
    const voxel = getVoxel(viewer);
    const mm = toMm(facts.affine, voxel);
    const offset = voxel[0] + facts.shape[0] * (voxel[1] + facts.shape[1] * voxel[2]);
    const { img, hdr } = nv.volumes[0];
    const value = img[offset] * hdr.scl_slope + hdr.scl_inter;
    const sides = ["RL", "AP", "SI"];
    const words = mm.map((position, axis) => `${sides[axis][position < 0 ? 1 : 0]} ${Math.abs(position).toFixed(1)}`);
    const found = viewer.masks.map((mask) => {
      const code = mask.codes[offset];
      const names = code ? mask.members[code - 1].map((label) => facts.labels[label].name) : [];
      return `${mask.name}: ${names.join(", ") || "no label"}`;
    });
    const planes = ["sagittal", "coronal", "axial"].map((name, axis) => `${name} ${voxel[axis] + 1}/${facts.shape[axis]}`);
    viewer.place = { voxel, mm, value, found };
    viewer.root.querySelector(".viewer-place").textContent =
      `${words.join("  ")} mm\nvalue ${Number(value.toPrecision(6))}\n` +
      found.map((line) => `${line}\n`).join("") + planes.reverse().join("  ");
  }
})();
