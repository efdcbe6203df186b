'use strict';
// Follows the stream of server-rendered HTML. Focus and what is open outlive each new version.
const live = document.getElementById('live');
const filter = document.getElementById('filter');
const connection = document.getElementById('connection');

function narrow() {
  const wanted = filter.value.trim().toLowerCase();
  for (const host of live.querySelectorAll('.host')) {
    host.hidden = wanted !== '' && !host.textContent.toLowerCase().includes(wanted);
  }
}

function show(html) {
  const fresh = document.createElement('template');
  fresh.innerHTML = html;
  const open = new Set([...live.querySelectorAll('details[open]')].map((one) => one.id));
  for (const one of fresh.content.querySelectorAll('details')) one.open = open.has(one.id);
  const focused = live.contains(document.activeElement) ? document.activeElement.id : '';
  live.replaceChildren(fresh.content);
  narrow();
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function tell(text, lost) {
  if (connection.textContent !== text) connection.textContent = text;
  connection.toggleAttribute('data-lost', lost);
}

filter.addEventListener('input', narrow);
const stream = new EventSource('/events');
stream.onmessage = (event) => { tell('live', false); show(event.data); };
stream.onopen = () => tell('live', false);
stream.onerror = () => tell('connection lost: what you see may be old', true);
