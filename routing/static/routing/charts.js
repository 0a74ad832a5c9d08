/* Draw every figure.chart of a page from the JSON beside its canvas, in the colours of the admin's theme. */
"use strict";

(function () {
    function color(name) {
        return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    }

    function palette(count) {
        return Array.from({length: count}, (_, i) => color(`--series-${i % 8 + 1}`));
    }

    /* Shorten a hotkey in a label, because a whole one leaves no room for the bar. The tooltip and the table show it
       whole. The text after the hotkey, such as an executor class, is on a second line. */
    function lines(label) {
        const [name, ...rest] = label.split(" ");
        return [name.length > 20 ? `${name.slice(0, 8)}…${name.slice(-6)}` : name, ...(rest.length ? [rest.join(" ")] : [])];
    }

    function options(kind, series) {
        const text = color("--body-quiet-color"), line = color("--hairline-color");
        const many = series.length > 1;
        const common = {
            animation: false,
            maintainAspectRatio: false,
            color: text,
            plugins: {legend: {display: many || kind === "ring", labels: {color: text, boxWidth: 12}}},
        };
        if (kind === "ring") {
            return {...common, cutout: "60%"};
        }
        const axis = {stacked: many, grid: {color: line}, ticks: {color: text, precision: 0}};
        const short = {callback(value) { return lines(this.getLabelForValue(value)); }};
        const names = {stacked: many, grid: {display: false}, ticks: {color: text, autoSkip: kind === "columns", maxRotation: 0, ...(kind === "bars" && short)}};
        return kind === "bars"
            ? {...common, indexAxis: "y", scales: {x: {...axis, beginAtZero: true}, y: names}}
            : {...common, interaction: {mode: "index"}, scales: {x: names, y: {...axis, beginAtZero: true}}};
    }

    /* Make each bar, and its label, a link to the same page as its row in the table. Keyboards reach only the table. */
    function lead(canvas, links) {
        function link({offsetY}) {
            const {chartArea, scales} = Chart.getChart(canvas);
            return offsetY >= chartArea.top && offsetY <= chartArea.bottom ? links[scales.y.getValueForPixel(offsetY)] : undefined;
        }
        canvas.onmousemove = event => { canvas.style.cursor = link(event) ? "pointer" : "default"; };
        canvas.onclick = event => { if (link(event)) { location.assign(link(event)); } };
    }

    function draw(canvas) {
        const {kind, labels, series, links} = JSON.parse(document.getElementById(canvas.id.replace(/-canvas$/, "")).textContent);
        if (kind === "bars") {
            const most = Math.max(...labels.map(label => lines(label).length));
            canvas.parentElement.style.height = `${80 + (4 + 14 * most) * labels.length}px`;
        }
        const colors = palette(kind === "ring" ? labels.length : series.length);
        Chart.getChart(canvas)?.destroy();
        new Chart(canvas, {
            type: kind === "ring" ? "doughnut" : "bar",
            data: {
                labels,
                datasets: series.map(({name, values}, i) => ({
                    label: name,
                    data: values,
                    backgroundColor: kind === "ring" ? colors : colors[i],
                    borderWidth: 0,
                    maxBarThickness: 28,
                })),
            },
            options: options(kind, series),
        });
        if (links.length) {
            lead(canvas, links);
        }
    }

    function drawAll() {
        document.querySelectorAll("figure.chart canvas").forEach(draw);
    }

    document.addEventListener("DOMContentLoaded", function () {
        drawAll();
        new MutationObserver(drawAll).observe(document.documentElement, {attributeFilter: ["data-theme"]});
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    });
})();
