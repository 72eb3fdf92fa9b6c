// What scrolls sideways can be reached by the keyboard.
for (const scrolled of document.querySelectorAll("article pre, article .table-wrapper, article div.math")) {
  if (scrolled.scrollWidth > scrolled.clientWidth) scrolled.tabIndex = 0;
}
