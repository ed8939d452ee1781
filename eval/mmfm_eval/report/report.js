document.documentElement.classList.add("js");
for (const button of document.querySelectorAll(".play")) {
  const sound = button.parentElement.querySelector("audio");
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== sound) other.pause();
    if (sound.paused) { sound.currentTime = 0; sound.play(); } else sound.pause();
  });
  sound.addEventListener("play", () => button.classList.add("playing"));
  for (const end of ["pause", "ended"]) sound.addEventListener(end, () => button.classList.remove("playing"));
}
