// Explorers without a kernel: one image holds all frames, one below the other, and the controls say which is seen.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".explorer")) {
    const controls = [...box.querySelectorAll("select, input")], frames = box.querySelector(".frames");
    const show = () => {
      let place = 0;
      for (const control of controls) {
        if (control.tagName === "SELECT") {
          place = place * control.options.length + control.selectedIndex;
          continue;
        }
        const values = control.dataset.values.split("|"), value = values[control.valueAsNumber];
        place = place * values.length + control.valueAsNumber;
        control.setAttribute("aria-valuetext", value);
        control.parentElement.querySelector("output").textContent = value;
      }
      frames.style.setProperty("--place", place);
    };
    for (const control of controls) control.addEventListener("input", show);
    for (const button of box.querySelectorAll("button")) {
      const slider = button.parentElement.querySelector("input");
      let timer = 0;
      const pause = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
      const tick = () => {
        if (slider.value === slider.max) return pause();
        slider.stepUp();
        show();
      };
      button.addEventListener("click", () => {
        if (timer) return pause();
        if (slider.value === slider.max) { slider.value = 0; show(); }
        button.textContent = "Pause";
        timer = setInterval(tick, 200);
      });
    }
    show();
  }
});
